# make demo        a virtual environment, gptwo in it (no PyTorch), and text from the model that it brings
# make test        everything the tests need, PyTorch too, then linters, type checker and all tests but the slow ones
# make test-slow   the slow tests, these two among them:
# make emulate     the core built by gcc and clang, for Arm and for older machines under qemu: the same bits
# make sanitize    the core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
TEXT ?= tinyshakespeare.txt

# The core is compiled in build/ with what the environment has, not in an isolated one that is made anew each time: so
# a change compiles only what it touches.
BUILD := scikit-build-core nanobind cmake ninja
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)

.PHONY: demo test test-slow lint types tests format emulate sanitize embedded-model constraints clean

demo: $(VENV)/.installed
	@echo
	$(BIN)/gptwo generate "ROMEO:" --max-tokens 110 --temperature 0.7 --top-p 0.95 --seed 7 --stats

test: lint types tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# One thread for each process: two processes that both want both cores get less done than one.
tests: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m "not slow" -n auto --dist loadgroup -q

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# They need no virtual environment: a compiler, cmake, ninja, and what tests/native/builds.py names.
emulate sanitize:
	$(PYTHON) tests/native/builds.py $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	@echo "compiling gptwo and installing it into $(VENV); the first time this takes a few minutes"
	$(PIP) $(BUILD)
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/bin/python
	@echo "compiling gptwo and installing what its tests need into $(VENV); the first time this takes a few minutes"
	$(PIP) $(BUILD)
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.installed

# The embedded model, again: an hour and a quarter on one core. TEXT is the file of 1,115,394 characters that the README names.
embedded-model: $(VENV)/.installed-dev
	$(BIN)/gptwo prepare $(TEXT) --out runs/shakespeare-data --tokenizer bpe:1024 --restart
	$(BIN)/gptwo train --config configs/shakespeare_embedded.toml --data runs/shakespeare-data --out runs/shakespeare
	rm -rf src/gptwo/embedded/shakespeare
	cp -r runs/shakespeare/model src/gptwo/embedded/shakespeare
	printf '\nOr, in a checkout of gptwo: `make embedded-model TEXT=tinyshakespeare.txt`.\n' \
	    >> src/gptwo/embedded/shakespeare/README.md

# What was tested: the versions that are installed now.
constraints: $(VENV)/.installed-dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt.tmp
	mv constraints.txt.tmp constraints.txt

clean:
	rm -rf $(VENV) build dist
