# Two commands for everybody: make demo, make test. Both make the environment that they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs/digit_arithmetic
JOBS ?= 2

.PHONY: help demo test lint format clean

help:
	@echo "make demo   install mmfuse into $(VENV) and run the main example; its pictures land in $(RUNS)"
	@echo "make test   install what the tests need and run them all, twice: plain, and with every shape checked;"
	@echo "            on JOBS processes (2), of up to 2 GB of memory each"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove $(VENV) and what was built"

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/digit_arithmetic.py --folder $(RUNS)

test: export OMP_NUM_THREADS = 1
test: export HF_HUB_OFFLINE = 1
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not plain" --jaxtyping-packages=mmfuse,beartype.beartype

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "mmfuse needs Python 3.10 or newer, and $(PYTHON) is `$(PYTHON) --version`. Try make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
