# `make demo` and `make test` do all the set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export SDL_VIDEODRIVER ?= dummy

.PHONY: demo test test-slow lint type format check-format pytest benchmark dataset wheel clean install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/python benchmarks/demo.py

test: lint type pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED)
	$(BIN)/mypy

pytest: $(INSTALLED)
	$(BIN)/pytest

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The figures of README and docs (an hour; runs whose results are there are not repeated), and the bundled dataset.
benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/bear_pendulum.py
	$(BIN)/python benchmarks/reinforce.py
	$(BIN)/python benchmarks/reinforce.py --speed
	$(BIN)/python benchmarks/zoo_entries.py --algo reinforce
	$(BIN)/python benchmarks/report.py

dataset: $(INSTALLED)
	$(BIN)/python benchmarks/make_pendulum_dataset.py

wheel: $(INSTALLED)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .pytest_cache .ruff_cache
