# Every goal works from a bare clone with nothing but Python: it makes .venv, installs, and does the job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo

.PHONY: help install demo test test-haswell lint docs fuzz bench clean

help:
	@echo "make install   .venv/bin/edgepress"
	@echo "make demo      quantize, export, verify, run and measure the built-in model"
	@echo "make test      lint, type check and tests"
	@echo "make docs      the pages of docs/ as a site in build/site; a broken link fails"
	@echo "make fuzz      hostile bundles, checkpoints, recipes and texts for ten minutes (SECONDS=600)"
	@echo "make test-haswell   tests of arithmetic on an emulated x86-64 processor with AVX2 and no VNNI"
	@echo "make bench     measure against onnxruntime-genai and llama.cpp, write the tables of the pages (long; needs a C++ compiler)"

$(VENV)/.export: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[export]'
	@touch $@

$(VENV)/.dev: $(VENV)/.export
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.export
	$(BIN)/python -m pip install --quiet --editable '.[export,bench]'
	@touch $@

install: $(VENV)/.export

demo: install
	$(BIN)/edgepress export demo --recipe int4 --out $(DEMO) --force --check
	$(BIN)/edgepress verify $(DEMO)
	$(BIN)/edgepress run $(DEMO) --prompt "ROMEO:" --max-tokens 120 --seed 7 --temperature 0.8
	$(BIN)/edgepress bench $(DEMO) --prompt-lengths 64 192 --decode-tokens 48

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

# timm and the torchvision that it imports, apart: transformers would take torchvision for its own images.
$(VENV)/.timm: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/timm 'timm>=1.0.20,<2' 'torchvision==0.28.*'
	@touch $@

test: lint $(VENV)/.timm
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 # each process that tests start would compile edgepress anew
	PYTHONPATH=$(VENV)/timm $(BIN)/pytest tests/exporter/doors/test_timm_model.py tests/exporter/test_processing_images.py -k timm

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1000000)

ARITHMETIC := tests/test_sessions.py tests/exporter/graph/qdq/test_quantize.py tests/exporter/graph/qdq/test_sums.py \
	tests/exporter/graph/qdq/test_calibrate.py tests/exporter/arrays/test_integer.py tests/exporter/arrays/test_packing.py \
	tests/targets/legality/test_saturation.py tests/runtime/test_evaluate.py

test-haswell: $(VENV)/.dev
	$(BIN)/edgepress emulator setup
	$(BIN)/edgepress emulator python -- -m pytest $(ARITHMETIC)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/export_cost.py
	$(BIN)/python benchmarks/decode_speed.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/device_lab.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/calibration_cost.py
	$(BIN)/python benchmarks/fusion.py
	$(BIN)/python benchmarks/vocabulary.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/sparsity.py
	$(BIN)/python benchmarks/report.py --write

clean:
	rm -rf build .venv
