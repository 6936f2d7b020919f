# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo space test lint types common browser clean

help:
	@echo "make demo   install, train on the built-in store, compare with counting, show recommendations"
	@echo "make space  open the demo's recommendations and attention as a page"
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

space: $(BIN)/installed-space
	$(BIN)/python examples/space/app.py

# A process a core, of one thread each: on the same cores, threads of several wait for each other.
test: $(BIN)/installed-test lint types common browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(BIN)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/installed-test
	$(BIN)/mypy

# transformers' own tests of models, from its source distribution.
common: $(BIN)/installed-test
	$(BIN)/python tests/transformers_common/run.py

# The page of examples/space is tested in a real browser; without one its test is skipped, and says so.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	fi || true

clean:
	rm -rf $(VENV) runs/demo build/transformers_common
