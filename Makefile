# Every target makes what it needs: a virtual environment with pinned packages,
# and a local Kafka (fetched once into the user's cache).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help install demo test test-long bench bench-stats bench-peers lint format schemas clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv with everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kedge needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## the whole loop on a local Kafka, with traffic that drifts
	$(BIN)/kedge demo

# Three workers on two cores, as many tests wait for Kafka.  The demo and everything
# under the supervisor come last and alone: they have the machine to themselves.
ALONE := $(addprefix tests/e2e/,test_demo.py test_kill.py test_up.py)

test: $(STAMP) lint  ## lint, types and all tests
	$(BIN)/pytest --numprocesses 3 --dist loadfile $(ALONE:%=--ignore %)
	$(BIN)/pytest $(ALONE)

test-long: $(STAMP)  ## what takes longer than a cup of coffee
	$(BIN)/pytest -m long tests

# TABLES="A ERROR" runs some of them, QUICK=1 all with few seeds.
TABLES ?=
bench-stats: $(STAMP)  ## the statistics beside Evidently, NannyML and River; docs/benchmarks.md
	PYTHONPATH=tests/bench $(BIN)/python -m bench_stats $(if $(QUICK),--quick) $(TABLES)

# CASES="panes-json windows" runs some of them, QUICK=1 the short ones with few records.
CASES ?=
bench: $(STAMP)  ## throughput, latency and memory on this machine; docs/benchmarks.md
	$(BIN)/kedge bench $(if $(QUICK),--quick) --markdown docs/benchmarks.md $(CASES)

bench-peers: $(STAMP)  ## the same work in Quix Streams, Faust, Bytewax, Evidently and NannyML
	PYTHONPATH=tests/bench $(BIN)/python -m bench_peers $(if $(QUICK),--quick)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(STAMP)  ## write schemas/kedge/json and docs/reference.md anew
	$(BIN)/python -m kedge.schemas
	$(BIN)/python -m kedge_services.cli.reference

clean:  ## remove what the targets made here
	rm -rf $(VENV) .kedge .bench .mypy_cache .ruff_cache .pytest_cache
