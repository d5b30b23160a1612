# `make help` lists the targets. The first call makes .venv and installs what constraints.txt pins.

PYTHON ?= python3
BIN := .venv/bin
RUN_ENV := HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
# Workers and the actors of Ray compile the same files again and again where Python may not keep them.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(RUN_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-chaos test-smoke soak check format seeds bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("wanted Python 3.11 or newer, found " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "installing torch: several minutes, about 1 GB with its libraries"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "installing the rest of the $$(grep -c '==' constraints.txt) packages of constraints.txt: some minutes, 3 GB in all"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,rooms,s3]'
	touch $@

setup: .venv/.installed ## make .venv and install

demo: .venv/.installed ## run the whole loop on this machine's CPU (about ten minutes)
	$(RUN_ENV) $(BIN)/python jobs/self_improve.py --config configs/rooms_demo.yaml

test: test-fast ## all tests but the chaos suite (about twenty minutes on two cores)
	$(PYTEST) -m "slow and not ray and not chaos" -n 2
	$(PYTEST) -m "ray and not chaos" -n 2 --dist loadfile

test-fast: .venv/.installed ## tests without Ray and network (about two minutes)
	$(PYTEST) -m "not ray and not slow and not chaos" -n 2 --ignore tests/chaos

test-chaos: .venv/.installed ## a test for each fault: kills, lost nodes, failing storage (about twenty minutes)
	$(PYTEST) -m "chaos and not soak"

test-smoke: .venv/.installed ## the sample of the chaos suite that continuous integration runs
	$(PYTEST) -m smoke

soak: .venv/.installed ## twenty kills of one run, seeds printed (about half an hour)
	$(PYTEST) -m soak -s

check: .venv/.installed ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

seeds: .venv/.installed ## the demo under five seeds and their table (about half an hour)
	for seed in 0 1 2 3 4; do \
	  $(RUN_ENV) $(BIN)/python jobs/self_improve.py --config configs/rooms_demo.yaml \
	    --set run.seed=$$seed --set run.url=runs/seeds/$$seed || exit 1; \
	done
	$(BIN)/python jobs/summarise.py runs/seeds/0 runs/seeds/1 runs/seeds/2 runs/seeds/3 runs/seeds/4

bench: .venv/.installed ## print the throughput ratios of docs/results.md
	$(RUN_ENV) $(BIN)/python -m benchmarks.run_all

clean: ## remove .venv, caches and the runs in runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	git clean -fdqX runs
