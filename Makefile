# Every target sets itself up first; a set-up that is up to date costs nothing.
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow lint docs clean

BIN := .venv/bin
QUICK := not slow and not gpu and not simpler
SLOW := slow and not gpu and not simpler
# a process per core, each with one thread; a file's tests share their fixtures, so they stay together
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## make .venv with the tested versions of everything
	@scripts/setup.sh

quickstart: setup ## the whole loop on a simulator, ending with a report (options: ARGS="--compare")
	$(BIN)/fathom quickstart $(ARGS)

test: setup ## the quick tests (options: ARGS="-k depth")
	$(PYTEST) -m "$(QUICK)" --cov --cov-report=term $(ARGS)

test-slow: setup ## the tests that take longer, the toy quickstart among them
	$(PYTEST) -m "$(SLOW)" $(ARGS)

lint: setup ## style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove what setup, tests and docs made (runs/ stays)
	rm -rf .venv site dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
