# The commands of a checkout. Everything goes into .venv; `make PYTHON=python3.12 test` for another.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint setup clean

quickstart: setup  ## train a small ViT on handwritten digits, two or three minutes
	$(BIN)/python3 main.py --mode train --expt experiments/quickstart.json

test: setup  ## every check: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

setup: .venv/ready  ## the environment, with pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python3 -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@

clean:  ## what set-up and tools left behind; runs and checkpoints stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
