# Every command of this repository; `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo run up down test test-all test-cluster test-images compose-env lint format lock screenshots clean

# The environment keeps its Python unless another one is named.
PYTHON ?= $(shell test -x .venv/bin/python && echo .venv/bin/python || echo python3)
RECIPE ?=
PARAMS ?=
TESTS ?= tests

LORAFLOW := .venv/bin/python -m tasks
PYTEST := -m pytest -n 4 --dist loadfile --no-loadscope-reorder
# The versions that are tried.
PYTHONS := 3.11 3.12 3.13
UV := .uv/bin/uv
UV_VERSION := 0.13.9
# What an environment here holds, and Airflow's image in a cluster.
EXTRAS := airflow demo dev dvc-s3 kubernetes mlflow-server postgres s3 steps
CLUSTER_EXTRAS := airflow airflow-cluster kubernetes postgres s3
COMPILE = $(UV) pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate

# Company networks sign with certificates of their own, which uv passes over unless told.
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(UV) ## Create the environment in .venv from the lock; quick where it is there
	@$(PYTHON) environment.py .venv

$(UV):
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv==$(UV_VERSION)

demo: setup ## Retrain a real model on real tweets, through Airflow, and show what came of it
	@$(LORAFLOW) prefetch tweets
	@$(LORAFLOW) demo $(PARAMS:%=--param %)

run: setup ## Retrain a recipe likewise: make run RECIPE=ethos [PARAMS="rows=200 epochs=2"]
	@$(LORAFLOW) prefetch $(or $(RECIPE),$(error RECIPE is missing: make run RECIPE=NAME, where loraflow recipes lists the names))
	@$(LORAFLOW) retrain $(RECIPE) $(PARAMS:%=--param %)

up: setup ## Start Airflow and MLflow on this machine and let them run
	@$(LORAFLOW) up

down: ## End them, and whatever they run
	@test ! -x .venv/bin/python || $(LORAFLOW) down

test: setup ## Run the tests of the product and of what has changed: make test [TESTS=tests/test_split.py]
	.venv/bin/python $(PYTEST) $(TESTS)

test-all: PYTEST += --all
test-all: test ## Run every test; then set-up and the tests without training on other Pythons of this machine
	@.venv/bin/python -m tests.support.other_pythons $(PYTHONS) -- $(PYTEST) $(TESTS)

test-cluster: setup ## Run on a real cluster what tests of pods need no fake: make test-cluster KUBECONFIG=FILE
	LORAFLOW_TEST_KUBECONFIG=$(abspath $(or $(KUBECONFIG),$(error KUBECONFIG is missing: make test-cluster KUBECONFIG=FILE))) \
		.venv/bin/python -m pytest tests/tools/test_kubernetes_*.py tests/pipeline/test_kubernetes.py

test-images: setup ## Build the images and try them in containers (podman or Docker; takes minutes)
	.venv/bin/python -m pytest -s tests/images/checks.py tests/images/composed.py

compose-env: ## Draw the passwords of docker/compose.yaml into docker/.env
	@$(PYTHON) docker/env.py

lint: setup ## Check style, types, imports and Dockerfiles
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/*.Dockerfile

format: setup ## Put the code into its format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: $(UV) ## Resolve the dependencies anew into requirements.lock and docker/airflow.lock
	$(COMPILE) $(EXTRAS:%=--extra %) pyproject.toml -o requirements.lock
	@# torch's build depends on the machine, so it is pinned without a hash.
	sed -i.bak -e '/^torch==/,/^[^ ]/{/^    --hash/d;s/^\(torch==[^ ]*\).*/\1/;}' requirements.lock && rm requirements.lock.bak
	$(COMPILE) $(CLUSTER_EXTRAS:%=--extra %) --constraint requirements.lock pyproject.toml -o docker/airflow.lock

screenshots: setup ## Take the pictures of the docs anew, from a run in a real browser
	@$(LORAFLOW) prefetch tweets
	.venv/bin/python -m docs.screenshots

clean: down ## Remove environment and runtime state
	rm -rf .venv .venv-* .uv .loraflow
