# The two commands of the README: `make demo` and `make test`. Everything happens inside .venv.
PYTHON ?= $(shell command -v python3.13 || command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check bench clean

help:
	@echo "make demo    install into .venv and run the whole way: model, PDF, cited answer"
	@echo "make test    install into .venv and run the tests"
	@echo "make check   lint, types and tests, as CI runs them"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' || \
	  { echo "rfctl needs Python 3.13; found $(PYTHON). Set PYTHON=/path/to/python3.13" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $(STAMP)

# The validators and the real Compose are large: only who tests or lints waits for them.
$(DEV): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(DEV)

demo: $(STAMP)
	@$(BIN)/rfctl demo $(ARGS)

test: $(DEV)
	$(BIN)/python -m pytest -q -n auto --dist loadfile $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(DEV)
	$(BIN)/mypy -p rfctl

check: lint types test

bench: $(DEV)
	$(BIN)/python benchmarks/convert.py $(ARGS)

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
