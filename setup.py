"""Builds the compiled backends. Neither torch nor a GPU is needed: the kernels take addresses and sizes.

WGAN_FAST_CPU=auto|0|1    the C++ kernels: where they can be built (auto), never (0), or fail if they cannot be (1)
WGAN_FAST_CUDA=auto|0|1   the CUDA kernels, likewise; they need nvcc, not a GPU
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not look here by itself
from build_tools import cuda

try:
    from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
except ImportError:  # an install without build isolation: the pure-Python package still works
    Pybind11Extension = None
else:
    ParallelCompile().install()

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fopenmp",
    # The same bits on every instruction set, and vectorised roots and comparisons; no value is changed by these.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")


def choice(variable: str) -> str:
    value = os.environ.get(variable, "auto")
    if value not in ("auto", "0", "1"):
        sys.exit(f"{variable}={value!r}: expected auto, 0 or 1")
    return value


def cpu_extensions() -> list:
    if choice("WGAN_FAST_CPU") == "0" or Pybind11Extension is None:
        return []
    sources = sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp"))
    headers = sorted(str(path) for path in Path("csrc").glob("**/*.h"))
    return [
        Pybind11Extension(
            "wgan_fast._cpu",
            sources,
            include_dirs=["csrc"],
            depends=headers,
            extra_compile_args=FLAGS,
            extra_link_args=["-fopenmp"],
            # A missing compiler costs speed, not the installation.
            optional=choice("WGAN_FAST_CPU") == "auto",
        )
    ]


def cuda_extensions() -> list:
    wanted = choice("WGAN_FAST_CUDA")
    missing = "pybind11 is not installed" if Pybind11Extension is None else cuda.missing()
    if wanted == "1" and missing:
        sys.exit(f"WGAN_FAST_CUDA=1: {missing}")
    if wanted == "0" or missing:
        return []
    return [cuda.extension(Pybind11Extension, optional=wanted == "auto")]


setup(ext_modules=cpu_extensions() + cuda_extensions(), cmdclass={"build_ext": cuda.BuildWithNvcc})
