"""Tests of the theory's claims: one module per claim, run by ``wgan-fast study NAME``.

A study is a module of this package with the five names of `wgan_fast.studies.study.Study`: its settings by size, the
cases it compares, the measurement of one case with one seed, the figure, and the conclusion in words.
"""

from __future__ import annotations

STUDIES = {
    "point-mass": "two point masses: JS is log 2, KL infinite, W1 = |θ| with gradient sign(θ)",
    "divergences": "two distributions moving apart: JS, KL and W1 and their gradients for a generator",
    "mode-coverage": "modes reached over training: the standard GAN and every constraint",
    "clip-values": "the clip value c from 1e-3 to 1: vanishing and exploding gradients, estimate, quality",
    "weight-distribution": "the critic's weights over training: piled up at ±c by clipping, not by the penalty",
    "estimate": "the critic's estimate against the exact W1 over training, for every constraint",
    "critic-value-surface": "optimal critics under clipping and the penalty beside the exact one, three toy data sets",
    "loss-correlates": "digits: whether the loss follows the distance between samples and data",
    "to-convergence": "a critic trained to convergence: the generator's gradient vanishes for a GAN, not for a WGAN",
    "modern-baseline": "relativistic loss, R1 and R2 against WGAN-GP and GAN with R1: modes, distances, divergence",
    "constraints": "every constraint in one table: quality, W1 ratio, Lipschitz constant, time, memory",
}
"""Name on the command line (the module has underscores for its hyphens), and the claim in one line."""
