"""Measurements: a ratio in one run, interleaved, medians, outputs verified equal before anything is timed."""
