# Two commands do everything, from a bare machine:   make demo   and   make test
# PYTHON chooses the interpreter; both make their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test dist docs pages site install-demo install-test lint types tests interpreter doctests frontend benchmark clean

demo: install-demo
	$(BIN)/attviz demo -o attviz-demo

test: install-test lint types frontend pages tests interpreter doctests

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt holds an exact version of everything, what builds the package included: `nox -s lock` writes it.
PIP := $(BIN)/pip install --quiet -c constraints.txt
BUILD := hatchling editables setuptools wheel

install-demo: $(BIN)/python
	$(PIP) $(BUILD)
	$(PIP) --no-build-isolation -e '.[demo]'

install-test: $(BIN)/python
	$(PIP) $(BUILD)
	$(PIP) --no-build-isolation -e '.[test]'
	$(PIP) --no-build-isolation --no-deps vit-pytorch openai-whisper  # their dependencies would replace the CPU build of torch

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# Kernels are compiled ahead of time in this process; Triton's interpreter needs one of its own.
tests:
	$(BIN)/python -m pytest tests -n 2 --dist worksteal -m "not interpreter and not gpu"

interpreter:
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels -n 2 --dist worksteal -m interpreter

doctests:
	$(BIN)/python -m pytest --doctest-modules attviz -p no:cacheprovider

# The committed page must be what its sources give, byte for byte.
frontend:
	npm --prefix frontend ci --no-audit --no-fund --loglevel=error
	npm --prefix frontend run check

# Wheel and sdist, checked as the package index checks them, and the quick start run from the wheel (tests/test_package.py).
dist: install-test
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m check_wheel_contents dist/*.whl

# The site, warnings as errors. GALLERY=0 leaves the examples of the gallery unrun, as CI does; a public CI runs them all.
docs: install-test
	$(MAKE) site

# What of the site can break without running the gallery: links, references, docstrings.
pages:
	GALLERY=0 $(MAKE) site

site:
	$(BIN)/python -m sphinx -W --keep-going -q -j auto docs docs/_build/html

benchmark: install-test
	$(BIN)/python -m benchmarks.capture

clean:
	rm -rf $(VENV) frontend/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
