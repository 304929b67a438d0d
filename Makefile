# make demo    install, then run MovieLens-100K from the raw log to the report
# make test    install, then lint, types and tests (make test-all: the slow ones too)
# make chaos   20 runs disturbed at random; the longest
# make gpu     eight minutes on a GPU: tests, losses beside the CPU's, speed, a whole run
# make docs    the pages as a site that needs no network, into build/site
# make dist    source and wheel, into dist
# make bench   all benchmarks in a small size, results into BENCH_OUT (build/bench)
# Both start from a fresh clone. PYTHON=python3.12 picks the Python, WHEELS=cpu|gpu the wheels.

PYTHON ?= python3
WHEELS ?= auto
VENV := .venv/bin
BENCH_OUT ?= build/bench
BENCH_RUNS ?= 1

.PHONY: demo test test-all chaos gpu docs dist bench lint audit types install

demo: install
	$(VENV)/p5dist run jobs/ml-100k.yaml

test: lint types
	$(VENV)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

chaos: install
	$(VENV)/python -m tests.faults.chaos --runs 20

gpu: install
	$(VENV)/python benchmarks/gpu.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --strict

dist: install
	rm -rf build/lib dist
	$(VENV)/python -m build

# compare.py tells change from noise where there are three runs: BENCH_RUNS=3 for those on Ray.
bench: BENCH = $(VENV)/python benchmarks/$(1).py --out $(BENCH_OUT)
bench: install
	$(VENV)/python -m pip install -qq -e '.[bench]'
	$(call BENCH,embedding) --rows 5e5 --steps 10 --runs 3
	$(call BENCH,checkpoint) --gigabytes 0.2 --runs 3
	$(call BENCH,prepare) --interactions 1e6 --runs 3
	$(call BENCH,train) --warm-up 10 --steps 20 --runs $(BENCH_RUNS)
	$(call BENCH,scaling) --modes weak --interactions 2e5 --steps 30 --runs $(BENCH_RUNS)
	$(call BENCH,plan_check) --workers 2 --interactions 2e5 --steps 30 --runs $(BENCH_RUNS)
	$(call BENCH,feed) --interactions 1e6 --steps 50 --runs $(BENCH_RUNS)
	$(call BENCH,startup) --runs $(BENCH_RUNS)
	$(call BENCH,recovery) --runs $(BENCH_RUNS)
	$(call BENCH,ranking) --users 5e3 --items 2e3 --interactions 2e5 --product-users 1024 --product-items 2000 --runs $(BENCH_RUNS)
	$(call BENCH,whole) --interactions 2e5 --steps 50 --runs $(BENCH_RUNS)

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
