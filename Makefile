# The commands of a checkout. Everything goes into .venv; `make PYTHON=python3.12 test` for another.
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin

.PHONY: quickstart test test-peers bench setup clean

quickstart: setup  ## fine-tune the small ViT that comes along on handwritten digits, a minute
	$(BIN)/python3 main.py --mode train --expt experiments/quickstart.json

test: setup  ## every check: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

# Fails also where it finds no test, or skips one.
test-peers: .venv-peers/ready  ## what needs timm, torchvision, transformers, datasets, pyarrow or onnx
	$(PEERS)/pytest --no-skips tests/peers tests/data/test_huggingface_data.py tests/data/test_manifest.py

bench: .venv-peers/bench  ## the model's speed beside other libraries, some minutes
	$(PEERS)/python3 -W ignore -m benchmarks models --batches 1 8

setup: .venv/ready  ## the environment, with pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python3 -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@

# torchvision from PyPI may not belong to the torch that is found; see tests/peers/conftest.py.
.venv-peers/ready: pyproject.toml constraints.txt constraints-peers.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/python3 -m pip install --quiet --upgrade "pip>=25.1"
	$(PEERS)/pip install --quiet --constraint constraints.txt --constraint constraints-peers.txt \
		--editable '.[onnx]' pytest pytest-timeout timm torchvision transformers datasets
	touch $@

.venv-peers/bench: .venv-peers/ready
	$(PEERS)/pip install --quiet --constraint constraints.txt --constraint constraints-peers.txt \
		--group bench
	touch $@

clean:  ## what set-up and tools left behind; runs and checkpoints stay
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache
