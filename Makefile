# Everything runs in .venv, made from constraints.txt on first use. Set PYTHON to choose the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2
FLWR ?= 1.42.0
FLWR_VENV := build/flwr-$(FLWR)
FLWR_TESTS ?= tests/contract/test_flower.py tests/unit/engine/test_grid.py \
	$(patsubst %,tests/unit/flower/test_%.py,admission app members protected protected_messages protected_start superexec supernode)
# For each target of the fuzzer. What it learns stays in runs/fuzz.
FUZZ_SECONDS ?= 60
.PHONY: demo deploy-demo deploy-faults test test-apart test-federations test-flwr docs lint wheel bench bench-deployment bench-peers fuzz clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("fedtrain needs Python 3.11 or later, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/fedtrain simulate --config simulations/demo.toml --out runs/demo

deploy-demo: $(STAMP)
	rm -rf runs/deploy-demo
	$(BIN)/python -m deploy.story docs/tutorial/deploy.md runs/deploy-demo

# Kills, cuts and full disks: ten to twenty minutes.
deploy-faults: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -v -m faults --basetemp=$$(mktemp -d)

# Where CI is set, as it is in continuous integration, the slow tests run too, and whole federations beside the others:
# their processes mostly wait for one another.
test: $(STAMP)
ifdef CI
	$(MAKE) --jobs=2 --output-sync=line test-apart test-federations
	$(MAKE) test-flwr
else
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m 'not slow'
endif

# Folders of their own: a run of pytest takes away what others left.
test-apart: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m 'not deployment and not faults' --basetemp=$$(mktemp -d)

# Two federations at a time, each for some files in the order of their names: the next file goes on with it.
test-federations: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'deployment and not faults' --basetemp=$$(mktemp -d)

# What depends on Flower most, on the version that constraints.txt does not name: beside the packages of .venv, in a second.
# FLWR_TESTS=tests runs all of it.
test-flwr: $(FLWR_VENV)/.installed
	$(FLWR_VENV)/bin/python -m pytest -n $(TEST_WORKERS) -m 'not slow' --basetemp=$$(mktemp -d) $(FLWR_TESTS)

$(FLWR_VENV)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(FLWR_VENV)
	$(BIN)/python -m pip --python $(FLWR_VENV)/bin/python install --quiet --disable-pip-version-check --no-deps flwr==$(FLWR)
	packages=$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])'); \
	own=$$($(FLWR_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])'); \
	echo "import site; site.addsitedir('$$packages')" > "$$own/packages.pth"
	touch $@

# Without the network. A broken link, or a page that is missing from the navigation, is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry fedtrain server clients

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

bench: $(STAMP)
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/accounting.py
	$(BIN)/python benchmarks/audit.py
	PYTHONPATH=. $(BIN)/python benchmarks/watching.py
	$(BIN)/python benchmarks/private_step.py
	$(BIN)/python benchmarks/integer_noise.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/transport.py --quick
	$(BIN)/python benchmarks/distributed.py --flower
	$(BIN)/python benchmarks/claims.py

# Whole deployments: a quarter of an hour on an idle machine.
bench-deployment: $(STAMP)
	PYTHONPATH=. $(BIN)/python benchmarks/deployment.py

# Installs BlazeFL and pfl-research, each with torch, into build/peers.
bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	set -e; targets=$$($(BIN)/python -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)'); \
	for target in $$targets; do \
		$(BIN)/python -m tests.fuzz.fuzz runs/fuzz $$target -max_total_time=$(FUZZ_SECONDS) -timeout=10; \
	done

clean:
	rm -rf $(VENV) runs build dist
