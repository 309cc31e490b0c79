# Two commands do everything: `make demo` and `make test`. Both make .venv when it is missing and reuse it afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_EXTRAS ?= torch,mlx,coreml,onnx,speech
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

.PHONY: help demo demo-full test test-mac test-gpu bench train train-speech clean

help:
	@echo "make demo          set up .venv, run the suites 'demo' and 'stt' on PyTorch, MLX and Core ML, compare them, write a report"
	@echo "make demo-full     the same with every item on all of them, and with every compression"
	@echo "make test          set up .venv, run the test suite"
	@echo "make test-mac      on a Mac: Core ML's contract tests with every compute unit; elsewhere: the list of them"
	@echo "make test-gpu      with an NVIDIA GPU: TensorRT's contract tests, engines built and run; elsewhere: the list of them"
	@echo "make bench         set up .venv, run the benchmarks (interleaved, medians)"
	@echo "make train         train the bundled vision-language model anew (hours on a CPU)"
	@echo "make train-speech  train the bundled recogniser anew (hours on a CPU; needs espeak-ng and flite)"

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
SPEECH_MODELS := --model demo:stt@torch --model demo:stt@mlx --model 'demo:stt@torch?dtype=float16'
MORE_SPEECH_MODELS := --model 'demo:stt@mlx?bits=8' --model 'demo:stt@mlx?bits=4'
SPEECH_ITEMS ?= --subset 140
# On a Mac these run on the device, elsewhere on the reference executor, whose answers have no timing.
COREML := --model demo:vlm@coreml --model 'demo:vlm@coreml?precision=fp16&quantize=int8'
SPEECH_COREML := --model demo:stt@coreml --model 'demo:stt@coreml?precision=fp16&quantize=int8'
COREML_ITEMS ?= --subset 50
COMPRESSIONS := int8 int4-block32 palette4 palette6 prune50
every = --model demo:$(1)@coreml --model 'demo:$(1)@coreml?precision=fp16' $(foreach each,$(COMPRESSIONS),--model 'demo:$(1)@coreml?precision=fp16&quantize=$(each)')
DEMO_RECORD := --record media --record tokens
DEMO ?= reports/demo
DEMO_REFERENCES := --reference demo:vlm@torch --reference demo:stt@torch

demo: $(VENV)/.ready-run
	$(BIN)/workbench eval demo $(DEMO_MODELS) $(DEMO_RECORD) --follow demo:vlm@torch --runs $(DEMO)
	$(BIN)/workbench eval stt $(SPEECH_MODELS) $(SPEECH_ITEMS) $(DEMO_RECORD) --follow demo:stt@torch --runs $(DEMO)
	$(BIN)/workbench eval demo $(COREML) $(COREML_ITEMS) --record tokens --follow demo:vlm@torch --runs $(DEMO)
	$(BIN)/workbench eval stt $(SPEECH_COREML) $(SPEECH_ITEMS) --record tokens --follow demo:stt@torch --runs $(DEMO)
	$(BIN)/workbench capture demo:vlm@torch --inputs demo --limit 2 --also auto --also bfloat16 --also float16 --keep --runs $(DEMO)
	$(BIN)/workbench capture demo:vlm@mlx --inputs demo --limit 2 --keep --runs $(DEMO)
	$(BIN)/workbench capture 'demo:vlm@torch?dtype=bfloat16' --inputs demo --limit 2 --keep --runs $(DEMO)
	$(BIN)/workbench capture demo:stt@torch --inputs stt --limit 2 --also auto --also float16 --keep --runs $(DEMO)
	$(BIN)/workbench capture demo:stt@mlx --inputs stt --limit 2 --keep --runs $(DEMO)
	$(BIN)/workbench capture 'demo:stt@torch?dtype=float16' --inputs stt --limit 2 --keep --runs $(DEMO)
	$(BIN)/workbench capture demo:vlm@coreml --inputs demo --limit 2 --keep --runs $(DEMO)
	$(BIN)/workbench capture demo:stt@coreml --inputs stt --limit 2 --keep --runs $(DEMO)
	code=0; $(BIN)/workbench parity $(DEMO) $(DEMO_REFERENCES) || code=$$?; \
	$(BIN)/workbench report $(DEMO) $(DEMO_REFERENCES) --out $(DEMO)-report; \
	echo "next: $(BIN)/workbench view $(DEMO)-report"; exit $$code

# Every item on every runtime, and every compression.
demo-full:
	$(MAKE) demo DEMO=reports/demo-full SPEECH_ITEMS= COREML_ITEMS= SPEECH_MODELS="$(SPEECH_MODELS) $(MORE_SPEECH_MODELS)" \
		COREML="$(call every,vlm)" SPEECH_COREML="$(call every,stt)"

# A process for each core, and files whole (tests/conftest.py); PYTEST_FLAGS come last, so that -n 0 or a path of yours wins.
test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

ifeq ($(shell uname -s),Darwin)
test-mac: $(VENV)/.ready-test
	$(BIN)/python -m tests.mac.run $(MAC_FLAGS)
else
test-mac:
	$(PYTHON) -m tests.mac.run
endif

# With an NVIDIA driver: TensorRT's contract tests on the GPU; elsewhere the list of them, by plain Python.
ifneq ($(wildcard /proc/driver/nvidia/version),)
$(VENV)/.ready-gpu: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with [nvidia,dev] (TensorRT's libraries come from the vendor)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[nvidia,dev]'
	@touch $@

test-gpu: $(VENV)/.ready-gpu
	$(BIN)/python -m tests.gpu.run $(GPU_FLAGS)
else
test-gpu:
	$(PYTHON) -m tests.gpu.run
endif

bench: $(VENV)/.ready-test
	$(BIN)/python -m tests.bench.run
	$(BIN)/python -m tests.bench.statistics
	$(BIN)/python -m tests.bench.report_size
	$(BIN)/python -m tests.bench.capture
	$(BIN)/python -m tests.bench.mil
	$(BIN)/python -m tests.bench.log_mel
	$(BIN)/python -m tests.bench.asr_scoring
	$(BIN)/python -m tests.bench.speech
	$(BIN)/workbench zoo --fresh --slow --runs build/bench-zoo
	WORKBENCH_WHOLE_ZOO=1 $(BIN)/python -m pytest -q tests/capture/zoo/test_families.py
	WORKBENCH_WHOLE_TESTS=1 $(BIN)/python -m pytest -q tests/mil/whole tests/test_notebooks.py tests/demo/test_demo_suite.py

train: $(VENV)/.ready-run
	$(BIN)/python -m workbench.demo.train --out build/demo-vlm

train-speech: $(VENV)/.ready-run
	$(BIN)/python -m workbench.demo.recogniser.train --out build/demo-stt

clean:
	rm -rf $(VENV) build dist
