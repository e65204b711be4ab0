# `make demo` and `make test` do all the set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export SDL_VIDEODRIVER ?= dummy
# Where benchmarks keep what they download; d3rlpy needs an older gymnasium than ours.
D3RLPY ?= benchmarks/runs/venv-d3rlpy
STREAM_X ?= benchmarks/runs/streaming-drl

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
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The figures of README and docs (hours; runs whose results are there are not repeated), and the bundled dataset.
benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/bear_pendulum.py
	$(BIN)/python benchmarks/fine_tune.py
	$(BIN)/python benchmarks/reinforce.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/zoo_entries.py --algo reinforce
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mujoco]"
	$(BIN)/python benchmarks/make_hopper_dataset.py
	$(BIN)/python benchmarks/bear_hopper.py
	test -d $(STREAM_X) || git clone --quiet https://github.com/mohmdelsayed/streaming-drl $(STREAM_X)
	$(BIN)/python benchmarks/single_step_a2c.py --stream-x $(STREAM_X)
	$(BIN)/python benchmarks/single_step_a2c.py --stream-x $(STREAM_X) --parts
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/zoo_entries.py --algo single_step_a2c
	$(BIN)/python benchmarks/zoo_entries.py --algo single_step_a2c --envs CartPole-v1 MountainCarContinuous-v0 --seeds 0 1 2 3 4
	test -d $(D3RLPY) || { $(PYTHON) -m venv $(D3RLPY) && $(D3RLPY)/bin/pip install --quiet torch==2.13.0 d3rlpy==2.8.1; }
	$(BIN)/python benchmarks/speed.py --d3rlpy $(D3RLPY)/bin/python --stream-x $(STREAM_X)
	$(BIN)/python benchmarks/load_speed.py
	$(BIN)/python benchmarks/bigger_than_memory.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/trained_agents.py
	$(BIN)/python benchmarks/report.py

dataset: $(INSTALLED)
	$(BIN)/python benchmarks/make_pendulum_dataset.py

wheel: $(INSTALLED)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .pytest_cache .ruff_cache
