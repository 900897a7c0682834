# make demo   clone to pictures: .venv, the package, Fashion-MNIST, DEMO_MINUTES of training, runs/demo
# make test   lint, types, tests
# make mutants  every token of the formulas (paths targets model times grids ode guidance samplers objectives bound
#               likelihood) changed in turn: does a test fail?
# make bench  the networks and the samplers' steps against diffusers'

PYTHON ?= python3
DEMO_MINUTES ?= 4
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint types tests slow mutants bench clean

demo: .venv/installed
	$(BIN)/inkwash demo --minutes $(DEMO_MINUTES)

test: lint types tests

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

# Two processes of one thread each: on two cores that beats one process of two threads, whose threads mostly wait.
tests: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m "slow or not slow"

mutants: .venv/installed-dev
	$(BIN)/python tools/mutants.py

bench: .venv/installed-dev
	$(BIN)/python bench/nets.py
	$(BIN)/python bench/samplers.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "inkwash needs Python 3.11 or newer, and this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
