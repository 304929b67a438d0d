# make demo    install, then run MovieLens-100K from the raw log to the report
# make test    install, then lint, types and tests (make test-all: the slow ones too)
# make chaos   20 runs disturbed at random; the longest
# Both start from a fresh clone. PYTHON=python3.12 picks the Python, WHEELS=cpu|gpu the wheels.

PYTHON ?= python3
WHEELS ?= auto
VENV := .venv/bin

.PHONY: demo test test-all chaos lint audit types install

demo: install
	$(VENV)/p5dist run jobs/ml-100k.yaml

test: lint types
	$(VENV)/python -m pytest -m "not slow"

chaos: install
	$(VENV)/python -m tests.faults.chaos --runs 20

test-all: lint types
	$(VENV)/python -m pytest

lint: install
	$(VENV)/python -m ruff check .
	$(VENV)/python -m ruff format --check .
	$(VENV)/python -m bandit -q -ll -c pyproject.toml -r p5dist

# Known vulnerabilities of the installed packages, from a service on the internet.
audit: install
	$(VENV)/python -m pip install -qq -e '.[audit]'
	$(VENV)/python -m pip_audit --skip-editable

types: install
	$(VENV)/python -m mypy

install:
	@$(PYTHON) install.py --wheels $(WHEELS)
