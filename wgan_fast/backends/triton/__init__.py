"""The kernels in Triton, one file per operation; ``launchers`` is the backend that the dispatcher loads.

Nothing is imported here, so that the kernels can be compiled ahead of time on a machine without a GPU.
"""
