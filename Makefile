# carrel: `make demo` shows it, `make test` checks it. Each makes the virtual environment when it is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
TRITON36 := .venv-triton36

export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full test-kernels lint types format docs-check bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed 's/:.*  ## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "carrel needs Python 3.11 to 3.13; say which: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; some minutes) …"
	@$(BIN)/python -m pip install -qq torch==2.13.0 -c constraints.txt
	@$(BIN)/python -m pip install -qq -e '.[dev]' -c constraints.txt
	@touch $@

install: $(STAMP)  ## make the virtual environment in .venv

demo: $(STAMP)  ## index documents, ask three questions, serve, and talk to the server
	@$(BIN)/python examples/demo.py

test: lint types  ## everything that CI runs: lint, types, all tests, README blocks
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

# torch 2.11 comes with Triton 3.6, a plain installation with the newest: this environment has the one and borrows all else.
$(TRITON36)/.installed: $(STAMP)
	@echo "Installing Triton 3.6 into $(TRITON36) (once) …"
	@$(BIN)/python -m venv --clear --without-pip $(TRITON36)
	@$(BIN)/python -m pip --python $(TRITON36)/bin/python install --quiet --no-deps triton==3.6.0
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(TRITON36)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	@touch $@

test-kernels: $(TRITON36)/.installed  ## the kernels: equal to their twins, compiled for three GPUs by two Tritons
	@CARREL_TRITON36_PYTHON=$(abspath $(TRITON36))/bin/python $(BIN)/python -m pytest -q tests/kernels $(PYTEST_ARGS)

# What node, npm or java are missing for is skipped, with the reason.
test-full: $(TRITON36)/.installed  ## the slow lanes: clients in Node and Java, a longer fuzz, kernels under two Tritons
	@$(BIN)/python -m pytest -q -m "java or node or long" tests $(PYTEST_ARGS)
	@CARREL_TRITON36_PYTHON=$(abspath $(TRITON36))/bin/python $(BIN)/python -m pytest -q tests/kernels/test_compile.py

lint: $(STAMP)  ## ruff check, ruff format --check, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(STAMP)  ## mypy: the packages and the programs strictly, the tests' bodies
	@$(BIN)/mypy
	@$(BIN)/mypy examples/demo.py training benchmarks/*.py benchmarks/gpu_suite
	@$(BIN)/mypy --config-file tests/mypy.ini tests scripts benchmarks/kernels

format: $(STAMP)  ## let ruff repair and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs-check: $(STAMP)  ## only the README blocks, the docstring examples and the notebook
	@$(BIN)/python -m pytest -q tests/project

bench: $(STAMP)  ## rows beside transformers and sentence-transformers
	@$(BIN)/python benchmarks/first_row.py
	@$(BIN)/python benchmarks/starters.py

clean:  ## remove what the targets made, the virtual environment too
	rm -rf $(VENV) $(TRITON36) .venv-node .node-clients dist build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
