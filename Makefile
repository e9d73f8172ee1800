# Usher. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
COMPILE := ../$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --generate-hashes --allow-unsafe
# What the operator needs from an index: all but the gateway, which comes from here.
OPERATOR_NEEDS := import tomllib; project = tomllib.load(open("../operator/pyproject.toml", "rb"))["project"]; \
	print(*(name for name in project["dependencies"] if name != "usher-gateway"), sep="\n")

# Only a KUBECONFIG given to make itself is used: tests create and delete, and an ambient one may lead anywhere.
ifeq ($(origin KUBECONFIG),command line)
export USHER_TEST_KUBECONFIG := $(KUBECONFIG)
endif
unexport KUBECONFIG

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt gateway/pyproject.toml operator/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Usher needs Python 3.11 or later; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ./gateway -e ./operator
	@touch $@

venv: $(READY) ## the environment, in .venv

run: $(READY) ## a simulated day of visits in about a minute, then keeps serving (ONCE=1: ends after the table)
	@PYTHONPATH=. $(BIN)/python -m demo.run $(if $(ONCE),--once) $(ARGS)

run-kubernetes: $(READY) ## the same in a Kubernetes cluster of its own, with an operator (ONCE=1; KUBECONFIG=…: in that cluster)
	@PYTHONPATH=.:tools $(BIN)/python -m demo.run_kubernetes $(if $(ONCE),--once) \
		$(if $(USHER_TEST_KUBECONFIG),--kubeconfig $(USHER_TEST_KUBECONFIG)) $(ARGS)

test: check $(READY) ## all that must hold: make check, then the whole suite but the long one (KUBECONFIG=…: on that cluster)
	@$(if $(USHER_TEST_KUBECONFIG),:,PYTHONPATH=tools $(BIN)/python -m local_cluster build)
	$(BIN)/python -m pytest -n 2 -m "not long" $(ARGS)

test-long: $(READY) ## the long suite: 100 kill rounds, a million odd bodies
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(READY) ## what needs no build: format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy gateway/src operator/src tests bench demo tools
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(READY) ## format the code, mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: $(READY) ## crds/ and docs/reference/, made anew from the typed resources
	PYTHONPATH=tools $(BIN)/python -m definitions

bench: $(READY) ## how fast: ratios to a bare aiohttp server within one run
	PYTHONPATH=bench $(BIN)/python bench/run.py $(ARGS)

bench-operator: $(READY) ## how fast the operator is with 10,000 objects, at a control plane of its own (ARGS="cold edits idle")
	PYTHONPATH=bench:tests:tools $(BIN)/python bench/cluster.py $(ARGS)

requirements: ## pin anew what development and CI install
	cd requirements && ../$(BIN)/python -c '$(OPERATOR_NEEDS)' | $(COMPILE) --output-file dev.txt dev.in ../gateway/pyproject.toml -
	cd requirements && $(COMPILE) --output-file go.txt go.in

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache data

.PHONY: help venv run run-kubernetes test test-long check format crds bench bench-operator requirements clean
