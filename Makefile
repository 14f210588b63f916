# Every target sets up what it needs: a virtual environment in .venv, the package installed into it, the C++ built.
#
#   make demo        train a WGAN-GP on handwritten digits, evaluate it, show where the pictures are
#   make test        all tests
#   make coverage    the largest part of them, with the lines that they do not reach
#   make lint        ruff, clang-format, the import layers
#   make typecheck   mypy
#   make docs        the documentation site, into out/site
#   make wheel       build the sdist and the wheel into dist/, check them, try the wheel without a source tree
#   make flops       count the matrix work of the library's patterns; fails where one has grown
#   make bench       the benchmarks, as tables, CSV files and a plot in benchmarks/results/PROCESSOR
#   make gpu         on a machine with a CUDA device: build, test and measure with PYTHON as it is, without a network;
#                    PARTS="build tests" for some of it, OUT=folder for the results (see benchmarks/gpu.py)
#   make compat      all tests with another torch and Python: TORCH=2.9.1 PYTHON=python3.12 (docs/versions.md);
#                    TESTS="tests/test_ops.py" for some of them
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
BIN := $(VENV)/bin
# Python compiles what it imports: all modules of all packages, one after another, would take most of a minute.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# For make compat: the tests' own needs, and the trainer's least; what needs more is skipped.
TORCH ?= 2.9.1
TESTS ?=
COMPAT = .compat/$(TORCH)-$(notdir $(PYTHON))
COMPAT_PACKAGES := numpy scipy safetensors pyyaml pytest pytest-xdist hypothesis expecttest pybind11 "setuptools>=77"
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f)
PYTHON_FILES := wgan_fast tests benchmarks build_tools examples docs setup.py
CXX_FILES := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test coverage lint typecheck docs wheel flops bench gpu compat clean

# Passive: waiting threads that spin make small steps many times slower when anything else uses the cores.
demo: $(VENV)/.train
	OMP_WAIT_POLICY=passive $(BIN)/wgan-fast train --data digits --constraint gp --seed 0 --out runs/demo --overwrite

# Triton either interprets or compiles in a process, and the stand-ins of tests/ptx are for these tests alone.
# $(1): the Python, $(2): options of pytest.
PYTEST = -m pytest -n $(WORKERS) --dist worksteal
LARGEST_PART = -m "not gpu" --ignore tests/ptx
define all_tests
TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(1) $(PYTEST) $(2) tests/triton_interpreter
OMP_NUM_THREADS=1 $(1) $(PYTEST) $(2) tests/ptx
OMP_NUM_THREADS=1 $(1) $(PYTEST) $(2) $(LARGEST_PART)
endef

test: $(VENV)/.dev
	$(call all_tests,$(BIN)/python,)

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(LARGEST_PART) --cov --cov-report=term

lint: $(VENV)/.dev
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/lint-imports

typecheck: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

wheel: $(VENV)/.dev
	$(BIN)/python build_tools/wheel.py

flops: $(VENV)/.dev
	$(BIN)/python -m benchmarks.flops

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

gpu:
	$(PYTHON) -m benchmarks.gpu --parts $(PARTS) $(if $(OUT),--out "$(OUT)")

compat: $(COMPAT)/.installed
	WGAN_FAST_CUDA=0 $(COMPAT)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
ifeq ($(TESTS),)
	$(call all_tests,$(COMPAT)/bin/python,-q -p no:cacheprovider)
else
	OMP_NUM_THREADS=1 $(COMPAT)/bin/python $(PYTEST) -q -m "not gpu" -p no:cacheprovider $(TESTS)
endif

# With the newest release of everything else that this torch and this Python take.
$(COMPAT)/.installed:
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install -q --no-cache-dir torch==$(TORCH) $(COMPAT_PACKAGES)
	touch $@

# The example trains with the extras alone; everything else wants the tools of development as well. With --jobs 2 the
# kernels are compiled while pip fetches and unpacks the packages.
$(VENV)/.train: $(VENV)/.compiled $(VENV)/.train-packages
	touch $@

$(VENV)/.dev: $(VENV)/.compiled $(VENV)/.dev-packages
	touch $@

$(VENV)/.build-tools:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "setuptools>=77" "pybind11>=2.13"
	touch $@

$(VENV)/.compiled: $(SOURCES) | $(VENV)/.build-tools
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

PACKAGE := WGAN_FAST_CPU=0 WGAN_FAST_CUDA=0 $(INSTALL) -e
$(VENV)/.train-packages: setup.py pyproject.toml constraints.txt | $(VENV)/.build-tools
	$(PACKAGE) ".[train]"
	touch $@

$(VENV)/.dev-packages: setup.py pyproject.toml constraints.txt | $(VENV)/.build-tools
	$(PACKAGE) ".[dev]"
	touch $@ $(VENV)/.train-packages

clean:
	rm -rf build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find wgan_fast -name '*.so' -delete
