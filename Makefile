# Every target sets .venv up by itself on a fresh machine: Python 3.11 and, for the real broker, Java 17 and Maven;
# for the tests also Prometheus with promtool, and Chromium with its driver (Debian: prometheus, chromium, chromium-driver).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BROKER ?= auto
KILLS ?= 100
TIMES ?= 20
EPOCHS ?= 50000
CRASHES ?= 5000000
MINUTES ?= 30
EFFORT ?= 0
MESSAGES ?= 1000000
# --required: fail where no service that knows of vulnerabilities can be asked
AUDIT ?=
# Of the tests with Kafka those that mostly start commands or wait, and measure no time.
BY_TWO := $(addprefix tests/kafka/test_,secured.py taking_back.py faults.py unanswered.py lost_connections.py crash.py \
	cluster.py kafka_io.py importing.py slow_model.py) tests/test_cli.py
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint bench speed profile chaos soak simulate fuzz golden clean

demo: $(VENV)/.demo
	$(BIN)/headrace demo --broker $(BROKER)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --doctest-modules pipeline consumers producers config
	$(BIN)/python -m pytest -m "not kafka" --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest -m kafka $(BY_TWO) --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest -m kafka $(BY_TWO:%=--ignore=%)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check consumers producers config tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/audit.py $(AUDIT)

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/bench.py

# How fast, against bare baselines in the same run, and how flat: some two hours on two cores; results/*.json.
speed: $(VENV)/.dev
	for set in ml-100k movietweetings; do $(BIN)/python tests/benchmarks/convert.py $$set --out profiles/$$set || exit 1; done
	$(BIN)/python tests/benchmarks/throughput.py --data profiles/ml-100k profiles/movietweetings
	$(BIN)/python tests/benchmarks/latency.py --data profiles/ml-100k --rounds 5
	$(BIN)/python tests/benchmarks/encoder.py --data profiles/movietweetings
	$(BIN)/python tests/benchmarks/idle.py --data profiles/ml-100k
	$(BIN)/python tests/benchmarks/recovery.py --megabytes 110 --loads 50
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/slope.py
	$(BIN)/python tests/benchmarks/left_behind.py --data profiles/ml-100k profiles/movietweetings
	$(BIN)/python tests/benchmarks/steady.py --data profiles/ml-100k profiles/movietweetings

# Where an epoch's time goes, by stage, and its flame graph, in profiles/.
profile: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/convert.py movietweetings --out profiles/movietweetings
	$(BIN)/python tests/benchmarks/profiling.py --data profiles/movietweetings --effort $(EFFORT) --out profiles

chaos: $(VENV)/.dev
	$(BIN)/python tests/kafka/chaos.py --kills $(KILLS) --times $(TIMES) --epochs $(EPOCHS)

soak: $(VENV)/.dev
	$(BIN)/python tests/kafka/soak.py --minutes $(MINUTES)

simulate: $(VENV)/.dev
	$(BIN)/python tests/simulation/simulate.py --mutants
	$(BIN)/python tests/simulation/simulate.py --crashes $(CRASHES)

fuzz: $(VENV)/.dev
	$(BIN)/python tests/simulation/fuzz.py --messages $(MESSAGES)
	$(BIN)/python -m pytest tests/consumers tests/epochs/test_properties.py --hypothesis-seed=random -p no:cacheprovider

golden: $(VENV)/.dev
	$(BIN)/python tests/epochs/test_golden.py --write

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): 5 GB, most of it torch; some minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): 5 GB, most of it torch; some minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded,bench,dev]'
	touch $@
