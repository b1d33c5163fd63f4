# make demo   installs its dependencies and shows the main job on the sandbox
# make test   installs its dependencies and runs all tests, with branch coverage
# make check  lint, types, tests, documentation and a short benchmark

PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: many tests wait for processes and sockets.
WORKERS := $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

# Hundreds of processes of the tests import the package: without a cache, each compiles it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types docs links site-check faults fuzz mutation audit outsiders outsiders-smoke bench bench-goodput bench-smoke soak kills examples modules check release-check release-check-quick clean

demo: .venv/.demo
	@$(BIN)/adapty-async demo examples/profiles.csv examples/erase.txt

test: .venv/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell . .ci .github
	$(BIN)/zizmor --offline --no-progress --quiet --persona pedantic .github

types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/.dev
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

site-check: docs
	$(BIN)/python -m tests.site docs/_build

faults: .venv/.dev
	$(BIN)/python -m tests.faults

fuzz: .venv/.dev
	$(BIN)/python -m pip install --quiet --group fuzz
	for reader in answers errors waits journal csv ndjson text webhooks; do \
	  $(BIN)/python -m fuzz $$reader -max_total_time=10 || exit; \
	done

mutation: .venv/.dev
	$(BIN)/python -m pip install --quiet --group mutation
	$(BIN)/python -m tests.mutation

outsiders: .venv/.dev
	$(BIN)/tox run -q -e outsiders

outsiders-smoke: .venv/.dev
	$(BIN)/tox run -q -e outsiders -- --short

links: .venv/.dev
	$(BIN)/python -m tests.links

release-check: .venv/.release
	$(BIN)/python -m tests.release

release-check-quick: .venv/.release
	$(BIN)/python -m tests.release --quick

audit: .venv/.dev
	$(BIN)/tox run -e audit

bench: .venv/.bench
	$(BIN)/python -m benchmarks --record

bench-goodput: .venv/.bench
	$(BIN)/python -m benchmarks.bench_goodput --rivals

bench-smoke: .venv/.bench
	$(BIN)/python -m benchmarks --quick
	$(BIN)/python -m benchmarks.soak --quick

soak: .venv/.dev
	$(BIN)/python -m benchmarks.soak

kills: .venv/.dev
	$(BIN)/python -m tests.jobs.kills

examples: .venv/.demo
	$(BIN)/python -m adapty_async.cli._demo examples

modules:
	@$(PYTHON) -m tests.module_map

check: lint types test docs bench-smoke

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/.demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cli,fast]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

.venv/.bench: .venv/.dev
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

.venv/.release: .venv/.dev
	$(BIN)/python -m pip install --quiet --group release
	@touch $@

clean:
	rm -rf .venv .tox dist build docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
