# `make demo` and `make test` need python3 (3.11 or newer, with venv) and make; the first call installs into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint constraints

demo: $(READY)
	$(BIN)/python sweeps/quickstart.py

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml docker/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lrbs needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint docker/constraints.txt --editable '.[dashboard,dev]'
	@touch $@

# After a deliberate upgrade: write down what is installed now.
constraints: $(READY)
	$(BIN)/pip freeze --exclude-editable --exclude lrbs > docker/constraints.txt
