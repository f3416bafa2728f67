# make demo | test | check | format | setup | clean
# PYTHON chooses the interpreter, VENV the environment, PYTEST_ARGS what pytest gets: make test PYTEST_ARGS="-x tests/io"

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2
NPU_ARGS ?= -n 2 --dist loadfile -m "npu_schema or npu_standin" tests/npu

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help setup demo test test-npu check check-format check-lint check-types check-imports check-spelling format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, then take the whole road on a small data set"
	@echo "make test    install, then run all checks and tests"
	@echo "make test-npu the part of them that stands in for an NPU"
	@echo "make check   the checks alone: format, lint, types, import layers, spelling"
	@echo "make format  rewrite the code as the checks want it"
	@echo "make setup   install into $(VENV)"
	@echo "make clean   remove $(VENV), caches and build output"

setup: $(STAMP)

# torch comes first and alone: resolved together with the rest, pip may choose a build that brings CUDA packages.
$(STAMP): pyproject.toml
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install "torch>=2.11,<2.14"
	@$(PIP) install -e ".[train,dev]"
	@touch $@

demo: setup
	@$(BIN)/seqpack demo

test: check
	@echo "pytest $(PYTEST_ARGS)"
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)
ifeq ($(origin PYTEST_ARGS),file)
	@$(MAKE) --no-print-directory test-npu
endif

# What needs no NPU and takes a minute: the real torch_npu without CANN, and training on a device that stands in for one.
test-npu: setup
	@echo "pytest $(NPU_ARGS)"
	@$(BIN)/python -m pytest -q $(NPU_ARGS)

check: check-format check-lint check-types check-imports check-spelling

check-format: setup
	@echo "ruff format --check"
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format"; exit 1; }

check-lint: setup
	@echo "ruff check"
	@$(BIN)/ruff check --quiet .

check-types: setup
	@echo "mypy"
	@$(BIN)/mypy --no-error-summary

check-imports: setup
	@echo "lint-imports"
	@$(BIN)/lint-imports > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

check-spelling: setup
	@echo "codespell"
	@$(BIN)/codespell

format: setup
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
