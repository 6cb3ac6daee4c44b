# One environment, made once: .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How many processes run tests, each on one thread; the tests of a file stay together.
WORKERS ?= 2

# Small models run faster on one thread, and the same on every machine.
test test-all quick faults fuzz kills mutation: export OMP_NUM_THREADS := 1

.PHONY: help venv browser demo test test-all check gpu-check faults fuzz kills mutation types quick clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

venv: $(VENV)/installed  ## the environment

# The one part of the tests that is no Python package. Where it cannot be had the tests of the ranking page are skipped, and say so.
browser:  ## a Chromium for the tests of the ranking page, from Debian's packages; those tests are skipped without it
	@command -v chromium >/dev/null \
	  || { command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium, and none could be installed: the tests of the ranking page are skipped"

demo: venv  ## the whole pipeline on a small world, under ten minutes: base, SFT, rankings, reward, PPO, DPO, report
	$(BIN)/posttrain demo --out runs/demo

test: venv  ## all tests but the slow ones, under ten minutes
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-all: venv  ## every test
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

check: venv  ## lint, format, types and the quick tests, under two minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory -j2 types quick

gpu-check: venv  ## on a machine with a GPU: the tests that need one, and what its kernels do for finetuning
	$(BIN)/python -m benchmarks gpu

faults: venv  ## plant forty faults, one line each, in a copy of the package, and show which test sees each; some minutes
	$(BIN)/python -m tests.faults

kills: venv  ## kill every method twenty times and more, at random instants and named points, and show what is lost; some minutes
	$(BIN)/python -m tests.kills

fuzz: venv  ## ten thousand mutated data files, settings, run folders, checkpoints and models through their doors; some minutes
	$(BIN)/python -m tests.fuzz

mutation: venv  ## change posttrain/ops in every small way and count what its tests see; a quarter of an hour
	$(BIN)/python -m tests.mutation

types: venv
	$(BIN)/pyright

quick: venv
	$(BIN)/pytest -q -m "not slow and not medium"

clean:  ## remove the environment and caches, never runs
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
