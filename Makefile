# Usher. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/runs
READY := $(VENV)/ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
COMPILE := ../$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --generate-hashes --allow-unsafe
# The dependencies of the operator that pip fetches: all except the gateway, which is in this repository.
OPERATOR_NEEDS := import tomllib; project = tomllib.load(open("../operator/pyproject.toml", "rb"))["project"]; \
	print(*(name for name in project["dependencies"] if name != "usher-gateway"), sep="\n")

OLDEST_POSTGRESQL ?= /usr/lib/postgresql/15/bin

# Use only a KUBECONFIG that is given to make. Tests create and delete objects, and a variable of the shell may name any
# cluster.
ifeq ($(origin KUBECONFIG),command line)
export USHER_TEST_KUBECONFIG := $(KUBECONFIG)
endif
unexport KUBECONFIG

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Both environments are in $(VENV): $(RUNS) has what running needs, and $(READY) the tools of development too.
$(RUNS): requirements/build.txt requirements/image.txt gateway/pyproject.toml operator/pyproject.toml
	@echo "Installing Usher into $(VENV) (once, 150 MB) ..."
	$(call create,-r requirements/build.txt -r requirements/image.txt)

$(READY): requirements/dev.txt gateway/pyproject.toml operator/pyproject.toml
	@echo "Installing Usher and the tools of development into $(VENV) (once, 700 MB, some minutes on a slow network) ..."
	$(call create,-r requirements/dev.txt)
	@touch $(RUNS)

define create
	@$(PYTHON) -c 'import sys; sys.exit("Usher needs Python 3.11 or later; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes $(1)
	@$(PIP) install --no-deps --no-build-isolation -e ./gateway -e ./operator
	@touch $@
endef

try: $(RUNS) ## install usher into .venv, without the tools of development
	@echo "Usher is $(BIN)/usher. Next: make run, or README.md, \"Your first listener, in five minutes\"."

venv: $(READY) ## create the environment of development in .venv

run: $(RUNS) ## run a simulated day of visits in about a minute, and keep serving (ONCE=1: stop after the table)
	@PYTHONPATH=. $(BIN)/python -m demo.run $(if $(ONCE),--once) $(ARGS)

run-kubernetes: $(READY) ## run the same on a local Kubernetes control plane with an operator (ONCE=1; KUBECONFIG=…: in that cluster)
	@PYTHONPATH=.:tools $(BIN)/python -m demo.run_kubernetes $(if $(ONCE),--once) \
		$(if $(USHER_TEST_KUBECONFIG),--kubeconfig $(USHER_TEST_KUBECONFIG)) $(ARGS)

# Three workers on two cores, because many tests wait for a cluster most of their time.
test: check $(READY) ## run make check and every test except those of test-long and test-node (KUBECONFIG=…: on that cluster)
	@$(if $(USHER_TEST_KUBECONFIG),:,PYTHONPATH=tools $(BIN)/python -m local_cluster build)
	@PYTHONPATH=tests:tools $(BIN)/python -m support.event_sdks
	@PYTHONPATH=tests:tools $(BIN)/python -m support.vendor_sdks
	@PYTHONPATH=tools $(BIN)/python -m prometheus
	@PYTHONPATH=tests:tools $(BIN)/python -m support.chromium
	$(BIN)/python -m pytest -n 3 -m "not long and not node" $(ARGS)

quick: $(READY) ## run the unit tests, and the contract tests on SQLite, in about a minute
	$(BIN)/python -m pytest -n 2 --hypothesis-profile=quick -k "not postgresql" tests/unit tests/contract $(ARGS)

mutants: $(READY) ## count how many small changes of the code that decides the tests of make quick notice (ARGS="--help")
	@PYTHONPATH=tools $(BIN)/python -m mutation $(ARGS)

test-oldest-postgresql: $(READY) ## test the store on PostgreSQL 15, as Debian installs it (OLDEST_POSTGRESQL=folder of the programs)
	USHER_TEST_POSTGRESQL=$(OLDEST_POSTGRESQL) $(BIN)/python -m pytest -n 2 -m "not long" -k postgresql tests/contract tests/integration/store/postgresql/test_{replicas,migrations,plans,tls}.py

test-long: $(READY) ## run the long suite: 100 kill rounds, a million odd bodies, 10 minutes of chaos, more stories on a cluster
	$(BIN)/python -m pytest -m long $(ARGS)
	@$(if $(wildcard $(OLDEST_POSTGRESQL)/postgres),$(MAKE) test-oldest-postgresql,echo "Not tested on PostgreSQL 15, because it is not installed")

test-node: $(READY) ## test image and chart on a real node (Linux, root; installs what is missing; KUBECONFIG=…: on that cluster)
	@$(PIP) install --require-hashes -r requirements/release.txt
	@PYTHONPATH=tools $(BIN)/python -m container_image prepare
	@$(if $(USHER_TEST_KUBECONFIG),:,PYTHONPATH=tools $(BIN)/python -m local_cluster prepare-node)
	$(if $(USHER_TEST_KUBECONFIG),,PYTHONPATH=tools $(BIN)/python -m local_cluster inside) $(BIN)/python -m pytest tests/node $(ARGS)

node: $(READY) ## start the real node of test-node, and a shell on it with kubectl, helm, usher and the image (Linux, root)
	@PYTHONPATH=tools $(BIN)/python -m local_cluster prepare-node
	@PYTHONPATH=tools $(BIN)/python -m container_image prepare
	@PYTHONPATH=tools $(BIN)/python -m local_cluster inside $(BIN)/python -m playground $(ARGS)

check: $(READY) ## check format, lint, types, import contracts, spelling and declared dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy gateway/src operator/src tests bench demo tools
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry --config gateway/pyproject.toml gateway/src
	$(BIN)/deptry --config operator/pyproject.toml operator/src

format: $(READY) ## format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: $(READY) ## generate crds/, docs/reference/ and templates of the chart from the typed resources
	PYTHONPATH=tools $(BIN)/python -m definitions

dashboards: $(READY) ## generate Grafana's boards in charts/usher/files/dashboards from tools/boards
	PYTHONPATH=tools $(BIN)/python -m boards

pictures: $(READY) ## draw the boards of a staged day into docs/boards, and the pages into docs/pages (ARGS=tests/integration/pages/test_browser.py: only these)
	UPDATE_DOCS=1 $(BIN)/python -m pytest $(or $(ARGS),tests/monitoring/test_staged_day.py tests/cluster/test_operator_board.py tests/integration/pages/test_browser.py)

bench: $(READY) ## measure the speed as ratios to a bare aiohttp server in the same run
	PYTHONPATH=bench $(BIN)/python bench/run.py $(ARGS)

bench-operator: $(READY) ## measure the operator with 10,000 objects on a local control plane (ARGS="cold edits fairness memory idle")
	PYTHONPATH=bench:tests:tools $(BIN)/python bench/cluster.py $(ARGS)

bench-postgresql: $(READY) ## measure the gateway on PostgreSQL (ARGS="ingest replicas claims retention")
	PYTHONPATH=bench:tools $(BIN)/python bench/on_postgresql.py $(ARGS)

bench-erasing: $(READY) ## measure 10,000 erasures beside arrivals, on both engines (ARGS="sqlite postgresql")
	PYTHONPATH=bench:tools $(BIN)/python bench/erasing.py $(ARGS)

bench-pages: $(READY) ## measure the overview in a browser with 2,000 tenants and 10 million visits, beside arrivals
	PYTHONPATH=bench:tools $(BIN)/python bench/pages.py $(ARGS)

bench-node: $(READY) ## measure the chart on a real node (Linux, root; ARGS="install edits memory")
	@PYTHONPATH=tools $(BIN)/python -m container_image prepare
	@PYTHONPATH=tools $(BIN)/python -m local_cluster prepare-node
	PYTHONPATH=bench:tests:tools $(BIN)/python -m local_cluster inside $(BIN)/python bench/node.py $(ARGS)

image: ## build the container image with docker, podman or buildah (IMAGE=name:tag ENGINE=… BASE_IMAGE=… WHEELHOUSE=folder)
	@PYTHONPATH=tools $(PYTHON) -m container_image build $(if $(IMAGE),--image=$(IMAGE)) $(if $(ENGINE),--engine=$(ENGINE)) \
		$(if $(BASE_IMAGE),--base=$(BASE_IMAGE)) $(if $(WHEELHOUSE),--wheelhouse=$(WHEELHOUSE))

release: $(READY) ## build wheels, image, chart, list of components and checksums of the last commit into dist/ (needs buildah; BASE_IMAGE=… WHEELHOUSE=folder)
	@$(PIP) install --require-hashes -r requirements/release.txt
	@PYTHONPATH=tools $(BIN)/python -m release $(if $(BASE_IMAGE),--base=$(BASE_IMAGE)) $(if $(WHEELHOUSE),--wheelhouse=$(WHEELHOUSE)) $(ARGS)

kind: ## create a kind cluster with Ingress, cert-manager, Usher and an example agency (needs docker, kind, kubectl, helm)
	@PYTHONPATH=tools $(PYTHON) -m kind_cluster up

kind-down: ## delete the cluster of make kind
	@PYTHONPATH=tools $(PYTHON) -m kind_cluster down

requirements: ## update the pinned dependencies of development, CI and the container image
	cd requirements && ../$(BIN)/python -c '$(OPERATOR_NEEDS)' | $(COMPILE) --extra kubeconfig --output-file dev.txt dev.in ../gateway/pyproject.toml -
	cd requirements && ../$(BIN)/python -c '$(OPERATOR_NEEDS)' | $(COMPILE) --constraint dev.txt --output-file image.txt ../gateway/pyproject.toml -
	cd requirements && $(COMPILE) --constraint dev.txt --output-file build.txt build.in
	cd requirements && $(COMPILE) --output-file go.txt go.in
	cd requirements && $(COMPILE) --output-file vendors.txt vendors.in
	cd requirements && $(COMPILE) --constraint dev.txt --output-file release.txt release.in

clean: ## remove the environment and every cache, but never data/ (install key and visits of usher run)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help try venv run run-kubernetes quick mutants test test-oldest-postgresql test-long test-node node check format crds dashboards pictures bench bench-operator bench-postgresql bench-erasing bench-pages bench-node image release kind kind-down requirements clean
