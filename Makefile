# Two commands do everything: `make demo` and `make test`. Both make .venv when it is missing and reuse it afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_EXTRAS ?= torch,mlx
TEST_EXTRAS ?= linux,dev
ifeq ($(shell uname -s),Darwin)
TEST_EXTRAS := mac,dev
endif

# On Linux without an NVIDIA driver, $TORCH_INDEX (when set) offers pip PyTorch's CPU builds.
PIP_FLAGS := --quiet --disable-pip-version-check
ifeq ($(shell uname -s),Linux)
ifeq ($(wildcard /proc/driver/nvidia/version),)
ifneq ($(TORCH_INDEX),)
PIP_FLAGS += --extra-index-url $(TORCH_INDEX)
endif
endif
endif

.PHONY: help demo test bench train clean

help:
	@echo "make demo   set up .venv, run the suite 'demo' on PyTorch and MLX, compare them, write a report"
	@echo "make test   set up .venv, run the test suite"
	@echo "make bench  set up .venv, run the benchmarks (interleaved, medians)"
	@echo "make train  train the bundled demo model anew (hours on a CPU)"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with [$(RUN_EXTRAS)] (a few minutes the first time)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[$(RUN_EXTRAS)]'
	@touch $@

$(VENV)/.ready-test: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with [$(TEST_EXTRAS)] (a few minutes the first time)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[$(TEST_EXTRAS)]'
	@touch $@ $(VENV)/.ready-run

DEMO_MODELS := --model demo:vlm@torch --model demo:vlm@mlx --model 'demo:vlm@torch?dtype=bfloat16'
DEMO_RUNS := reports/demo --reference demo:vlm@torch

demo: $(VENV)/.ready-run
	$(BIN)/workbench eval demo $(DEMO_MODELS) --record media --record tokens --follow demo:vlm@torch --runs reports/demo
	$(BIN)/workbench capture demo:vlm@torch --inputs demo --limit 2 --also auto --also bfloat16 --keep --runs reports/demo
	$(BIN)/workbench capture demo:vlm@mlx --inputs demo --limit 2 --keep --runs reports/demo
	$(BIN)/workbench capture 'demo:vlm@torch?dtype=bfloat16' --inputs demo --limit 2 --keep --runs reports/demo
	code=0; $(BIN)/workbench parity $(DEMO_RUNS) || code=$$?; \
	$(BIN)/workbench report $(DEMO_RUNS) --out reports/demo-report; \
	echo "next: $(BIN)/workbench view reports/demo-report"; exit $$code

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

bench: $(VENV)/.ready-test
	$(BIN)/python -m tests.bench.run
	$(BIN)/python -m tests.bench.statistics
	$(BIN)/python -m tests.bench.report_size
	$(BIN)/python -m tests.bench.capture
	$(BIN)/python -m tests.bench.mil
	$(BIN)/workbench zoo --fresh --slow --runs build/bench-zoo
	WORKBENCH_WHOLE_ZOO=1 $(BIN)/python -m pytest -q tests/capture/zoo/test_families.py

train: $(VENV)/.ready-run
	$(BIN)/python -m workbench.demo.train --out build/demo-vlm

clean:
	rm -rf $(VENV) build dist
