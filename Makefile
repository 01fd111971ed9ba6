# The two commands a newcomer needs: `make demo` and `make test`. Both make .venv where there is none.
# Windows has no make: the same steps as plain commands stand in README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check install clean

demo: install  ## base model, training, comparison
	$(BIN)/pangzhu demo --output_dir lora_output

test: install  ## the whole test suite, with coverage
	$(BIN)/python -m pytest --cov --cov-report=term

check: install  ## formatting, lint, types, and the tests that need no real model
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not real"

install: $(INSTALLED)  ## .venv with the exact tested versions

$(INSTALLED): requirements.txt pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(INSTALLED)

clean:  ## remove what was installed and trained here
	rm -rf $(VENV) lora_output
