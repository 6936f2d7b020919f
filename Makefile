# `make demo` and `make test` work on a fresh machine with Python 3.10 or newer; each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint types clean

help:
	@echo "make demo   install, train on the built-in store, compare with counting, show recommendations"
	@echo "make test   install, lint, check types, run all tests"
	@echo "make clean  remove the virtual environment and the demo's run"

$(BIN)/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

demo: $(BIN)/installed-demo
	$(BIN)/python examples/demo.py

test: $(BIN)/installed-test lint types
	$(BIN)/python -m pytest

lint: $(BIN)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs/demo
