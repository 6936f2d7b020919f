# `make demo` and `make test` work on a fresh machine with Python 3.10 or newer; each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint types common clean

help:
	@echo "make demo   install, train on the built-in store, compare with counting, show recommendations"
	@echo "make test   install, lint, check types, run all tests, transformers' own common ones too"
	@echo "make clean  remove the virtual environment, the demo's run and what tests downloaded"

$(BIN)/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

demo: $(BIN)/installed-demo
	$(BIN)/python examples/demo.py

test: $(BIN)/installed-test lint types common
	$(BIN)/python -m pytest

lint: $(BIN)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/installed-test
	$(BIN)/mypy

# transformers' own tests of models, from its source distribution.
common: $(BIN)/installed-test
	$(BIN)/python tests/transformers_common/run.py

clean:
	rm -rf $(VENV) runs/demo build/transformers_common
