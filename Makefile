# rdstool: set up, try, test, measure. Everything lives in .venv, nothing is installed outside it but Debian packages.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CODE := dissectors rdstool tests benchmarks tools

DEMO ?= pcaps/tcp-basic-73/a.pcap.gz
SECONDS ?= 60
BENCH ?=
SEEDS ?= 20000
CASES ?= 200
TESTS ?= tests

# Tests run in as many processes as there are processors. Those of real kernels run after the others, for an emulated guest
# takes a processor of its own; tests that share a guest stay together.
BESIDE := -p xdist -n auto --maxprocesses 4
KERNEL_TESTS = $(filter tests tests/interop%,$(TESTS))
OTHER_TESTS = $(if $(filter tests/interop%,$(TESTS)),,$(TESTS))

# What booting kernels takes: QEMU, an initramfs, modules, addresses, and the keys that kernel packages are signed with.
LAB_PACKAGES := qemu-system-x86 busybox-static kmod iproute2 file debian-archive-keyring

# What talks RoCE to rdstool in a guest.
ROCE_PACKAGES := rdmacm-utils ibverbs-utils ibverbs-providers python3-pyverbs

# ---- Environment. Stamp files keep repeated runs quick.

$(VENV)/.created: tools/find-python tools/need
	@python=$$(tools/find-python $(PYTHON)); echo "Creating $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "Installing rdstool into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	@echo "Installing rdstool, and what tests and checks need, into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $(VENV)/.installed $@

.PHONY: help install demo test test-oldest system-packages lint format imports bench bench-endpoint bench-guest bench-host-guest bench-roce sim fuzz agree clean

help: ## Show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/.installed-dev ## Create .venv with rdstool and what its tests need
	@echo "Ready: $(BIN)/$$($(BIN)/rdstool --version)"

# ---- Use

demo: $(VENV)/.installed ## Decode and validate a real capture, step by step
	@RDSTOOL=$(BIN)/rdstool tools/demo $(DEMO)

# ---- Checks

system-packages:
	@tools/need $(LAB_PACKAGES) $(ROCE_PACKAGES)
	@tools/need --wanted tshark lua5.2 lua5.4 lua-check

test: $(VENV)/.installed-dev system-packages ## Run all tests; with TESTS=tests/unit, a part of them
	@$(if $(KERNEL_TESTS),$(BIN)/rdstool lab fetch >/dev/null)
	@$(if $(OTHER_TESTS),$(BIN)/python -m pytest -q $(BESIDE) --dist worksteal --ignore tests/interop $(OTHER_TESTS))
	@$(if $(KERNEL_TESTS),$(BIN)/python -m pytest -q $(BESIDE) --dist loadgroup $(patsubst tests,tests/interop,$(TESTS)))

test-oldest: $(VENV)/.created ## Run all tests with the oldest dependencies that pyproject.toml allows
	@$(BIN)/python -m venv --clear $(VENV)-oldest
	@echo "Installing the oldest dependencies into $(VENV)-oldest"
	@$(VENV)-oldest/bin/python -m pip --disable-pip-version-check --quiet install \
		$$($(BIN)/python tools/oldest.py) --editable '.[parquet]'
	@$(VENV)-oldest/bin/python -m pytest -q -W ignore::DeprecationWarning $(TESTS)

lint: $(VENV)/.installed-dev ## Check style, format, types and how modules import each other
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check . | head -n 20; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

format: $(VENV)/.installed-dev ## Bring the source into its format
	@$(BIN)/ruff check --quiet --fix-only --select I .
	@$(BIN)/ruff format --quiet .

bench: $(VENV)/.installed-dev ## Measure against tshark and Scapy; writes benchmarks/results.md
	@tools/need tshark
	@$(BIN)/python -m benchmarks.decode $(BENCH)

sim: $(VENV)/.installed-dev ## Simulate bad networks, SEEDS=20000 of them; a failing seed replays exactly
	@$(BIN)/python -m tests.sim --seeds $(SEEDS)

bench-endpoint: $(VENV)/.installed-dev ## Measure RDS over TCP beside a bare TCP program; writes benchmarks/endpoint.md
	@$(BIN)/python -m benchmarks.endpoint $(BENCH)

bench-guest: $(VENV)/.installed-dev system-packages ## Measure RDS over TCP against a kernel in a guest; writes benchmarks/guest.md
	@$(BIN)/rdstool lab fetch newest >/dev/null
	@$(BIN)/python -m benchmarks.guest $(BENCH)

bench-host-guest: $(VENV)/.installed-dev system-packages ## Measure RDS over RoCE between host and guest; writes benchmarks/host_guest.md
	@$(BIN)/rdstool lab fetch newest >/dev/null
	@$(BIN)/python -m benchmarks.host_guest $(BENCH)

bench-roce: $(VENV)/.installed-dev ## Measure userspace RoCE and RDS over it beside a bare UDP program
	@$(BIN)/python -m benchmarks.roce $(BENCH)

fuzz: $(VENV)/.installed-dev ## Feed damaged captures to rdstool, for SECONDS=60
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

agree: $(VENV)/.installed-dev ## Read CASES=200 damaged captures natively and through tshark, and compare
	@tools/need tshark
	@$(BIN)/python -m tests.agree --seeds $(CASES) --newer --passes --jobs

clean: ## Remove the environment and everything that was made
	@rm -rf $(VENV) $(VENV)-oldest build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage benchmarks/data
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
