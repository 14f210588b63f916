"""Builds the compiled backends. Neither torch nor a GPU is needed: the kernels take addresses and sizes.

WGAN_FAST_CPU=auto|0|1   the C++ kernels: where they can be built (auto), never (0), or fail if they cannot be (1)
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

try:
    from pybind11.setup_helpers import Pybind11Extension
except ImportError:  # an install without build isolation: the pure-Python package still works
    Pybind11Extension = None

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


def extensions() -> list:
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
        )
    ]


class BuildWhatCanBeBuilt(build_ext):
    """A missing compiler costs speed, not the installation, unless WGAN_FAST_CPU=1 says otherwise."""

    def build_extension(self, extension):
        try:
            super().build_extension(extension)
        except Exception as error:
            if choice("WGAN_FAST_CPU") == "1":
                raise
            print(f"wgan_fast: {extension.name} was not built ({error}); the package works without it", file=sys.stderr)

    def get_outputs(self):
        return [path for path in super().get_outputs() if os.path.exists(path)]

    def copy_extensions_to_source(self):
        built = [e for e in self.extensions if os.path.exists(self.get_ext_fullpath(e.name)) or self._is_built(e)]
        self.extensions = built
        super().copy_extensions_to_source()

    def _is_built(self, extension):
        return os.path.exists(os.path.join(self.build_lib, self.get_ext_filename(extension.name)))


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWhatCanBeBuilt})
