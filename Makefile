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

.PHONY: help demo demo-full demo-coreml demo-tensorrt demo-captures test test-mac test-gpu bench train train-speech clean

help:
	@echo "make demo          set up .venv, run the suites 'demo' and 'stt' on PyTorch, MLX, Core ML, ONNX Runtime and TensorRT, write a report"
	@echo "make demo-full     the same with every item, every precision and every compression"
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

# What is timed runs alone, one model after the other. Reference evidence has no times, and its chains run side by side where all of them are such.
DEMO ?= reports/demo
DEMO_REFERENCES := --reference demo:vlm@torch --reference demo:stt@torch
DEMO_CHAINS := demo-coreml demo-tensorrt demo-captures
DEMO_JOBS := 2
ifneq ($(filter Darwin,$(shell uname -s))$(wildcard /proc/driver/nvidia/version),)
DEMO_JOBS := 1
endif
# Two chains share the cores evenly: with more threads than cores, each waits for the other's.
DEMO_SHARE := OMP_NUM_THREADS=$(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) + $(DEMO_JOBS) - 1) / $(DEMO_JOBS) )))
vlm_models := torch mlx onnx
stt_models := torch onnx
mlx_models := mlx
coreml_models := coreml
tensorrt_models := tensorrt?precision=fp16
captured := mlx coreml onnx tensorrt?precision=fp16
ifdef FULL
COMPRESSIONS := int8 int4-block32 palette4 palette6 prune50
vlm_models += torch?dtype=bfloat16
stt_models += torch?dtype=float16
mlx_models += mlx?bits=8 mlx?bits=4
SPEECH_RECORD := --record tokens --follow demo:stt@torch
CAPTURED_ITEMS := 2
coreml_models += coreml?precision=fp16 $(COMPRESSIONS:%=coreml?precision=fp16&quantize=%)
tensorrt_models := tensorrt tensorrt?precision=fp16 tensorrt?precision=bf16 tensorrt?precision=int8-qdq
else
# At ±2 points 133 items settle what never flips. MLX's recogniser takes a second an utterance on a CPU, and is asked a quarter of them.
DEMO_ITEMS ?= --subset 40
SPEECH_ITEMS ?= --subset 140
MLX_SPEECH_ITEMS ?= --subset 35
CAPTURED_ITEMS := 1
endif
asked = $(foreach each,$(2),--model 'demo:$(1)@$(each)') --runs $(DEMO)
pictures = $(call asked,vlm,$(1)) --record tokens --follow demo:vlm@torch $(DEMO_ITEMS)
sounds = $(call asked,stt,$(1)) $(SPEECH_RECORD)
captures = $(foreach each,$(2),'demo:$(1)@$(each)')

demo: $(VENV)/.ready-run
	$(BIN)/workbench eval demo $(call pictures,$(vlm_models)) --record media
	$(BIN)/workbench eval stt $(call sounds,$(stt_models)) $(SPEECH_ITEMS) --record media
	$(BIN)/workbench eval stt $(call sounds,$(mlx_models)) $(MLX_SPEECH_ITEMS)
	$(DEMO_SHARE) $(MAKE) --no-print-directory -j$(DEMO_JOBS) $(DEMO_CHAINS)
	code=0; $(BIN)/workbench parity $(DEMO) $(DEMO_REFERENCES) || code=$$?; \
	$(BIN)/workbench report $(DEMO) $(DEMO_REFERENCES) --out $(DEMO)-report; \
	echo "next: $(BIN)/workbench view $(DEMO)-report"; \
	[ $$code = 4 ] && code=0; exit $$code  # INCONCLUSIVE, on so few items, is an answer

# On a Mac the first, with an NVIDIA GPU the second runs on the device.
demo-coreml demo-tensorrt: demo-%: $(VENV)/.ready-run
	$(BIN)/workbench eval demo $(call pictures,$($*_models))
	$(BIN)/workbench eval stt $(call sounds,$($*_models)) $(SPEECH_ITEMS)

demo-captures: $(VENV)/.ready-run
	$(BIN)/workbench capture demo:vlm@torch --inputs demo --limit $(CAPTURED_ITEMS) --also auto --also bfloat16 --also float16 --keep --runs $(DEMO)
	for model in $(call captures,vlm,$(captured)); do \
		$(BIN)/workbench capture "$$model" --inputs demo --limit $(CAPTURED_ITEMS) --keep --runs $(DEMO); done
ifdef FULL
	$(BIN)/workbench capture demo:stt@torch --inputs stt --limit 2 --also auto --also float16 --keep --runs $(DEMO)
	for model in $(call captures,stt,$(captured)); do \
		$(BIN)/workbench capture "$$model" --inputs stt --limit 2 --keep --runs $(DEMO); done
endif

# Every item, every precision and every compression.
demo-full:
	$(MAKE) demo FULL=1 DEMO=reports/demo-full

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

# With an NVIDIA driver (WSL 2 shows it by nvidia-smi only): TensorRT's contract tests; elsewhere the list of them, by plain Python.
ifneq ($(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi),)
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
	$(BIN)/python -m tests.bench.onnx_stages
	$(BIN)/workbench zoo --fresh --slow --runs build/bench-zoo
	WORKBENCH_WHOLE_ZOO=1 $(BIN)/python -m pytest -q tests/capture/zoo/test_families.py
	WORKBENCH_WHOLE_TESTS=1 $(BIN)/python -m pytest -q tests/mil/whole tests/test_notebooks.py tests/demo/test_demo_suite.py tests/demo/test_typed_graphs.py

train: $(VENV)/.ready-run
	$(BIN)/python -m workbench.demo.train --out build/demo-vlm

train-speech: $(VENV)/.ready-run
	$(BIN)/python -m workbench.demo.recogniser.train --out build/demo-stt

clean:
	rm -rf $(VENV) build dist
