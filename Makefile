# The two commands a newcomer needs: `make demo` and `make test`. Both make .venv where there is none.
# Windows has no make: the same steps as plain commands stand in README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two workers of one thread each: two threads that wait for each other are slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo serve test check lint torture bench bench-quick install clean

demo: install  ## base model, training, comparison
	$(BIN)/pangzhu demo --output_dir lora_output

serve: install  ## the page and the API on this machine, with the adapter of `make demo`
	$(BIN)/pangzhu serve --adapter law=lora_output

test: install  ## the whole test suite, with coverage
	$(PYTEST) --cov --cov-report=term

check: lint  ## the gate: formatting, lint, types, and the tests that need no real model
	$(if $(filter test,$(MAKECMDGOALS)),@echo "make test runs the gate's tests too",$(PYTEST) -q -m "not real")

lint: install  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

torture: install  ## crashes, power losses, kills, damaged files and made-up inputs, and how many there were
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --torture -m "torture or fault or hypothesis" --counts tests/results.json -q
	$(BIN)/python docs/tested_by.py

bench: install  ## the equality gate, then everybody on the half-billion Qwen; goes on from its CSV
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.gate --precision bf16
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.summary

bench-quick: install  ## the same in minutes, on the small model
	$(BIN)/python -m benchmarks.gate --model packaged:smollm2-135m-instruct --rows_per_step 2
	$(BIN)/python -m benchmarks.bench --model packaged:smollm2-135m-instruct --workloads mixed --blocks 2 --warm_up 1 --steps 2 \
	  --others "tutorial float32, padded to MAX_LENGTH" --others "tutorial float32, padded to the batch" \
	  --others "pangzhu --fast off"
	$(BIN)/python -m benchmarks.summary

install: $(INSTALLED)  ## .venv with the exact tested versions

$(INSTALLED): requirements.txt pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(INSTALLED)

clean:  ## remove what was installed and trained here
	rm -rf $(VENV) lora_output
