# `make demo` and `make test` do all the set-up: they make a virtual environment in .venv with the pinned versions of constraints.txt.
# Compiling all modules that pip installs takes as long as the rest of it; Python compiles those that are used.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export SDL_VIDEODRIVER ?= dummy
# d3rlpy needs an older gymnasium than ours.
export D3RLPY ?= benchmarks/runs/venv-d3rlpy

.PHONY: demo docs test test-slow test-gpu lint type format pytest benchmark searches dataset wheel clean install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# The documentation site, in docs/_build.
docs: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build

test: lint
	$(MAKE) --no-print-directory -j 2 type pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports

type: $(INSTALLED)
	$(BIN)/mypy

pytest: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mujoco,box2d]"
	$(BIN)/pytest -m slow

# On a machine with an NVIDIA GPU, minutes.
test-gpu: $(INSTALLED)
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/speed/bear.py --gpu

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The figures of README and docs (days; runs that have a result are not repeated).
benchmark: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mujoco]"
	test -d benchmarks/runs/streaming-drl || git clone --quiet https://github.com/mohmdelsayed/streaming-drl benchmarks/runs/streaming-drl
	for name in takuseno/d3rlpy-benchmarks corl-team/CORL; do \
		test -d benchmarks/runs/$$(basename $$name) || git clone --quiet --depth 1 https://github.com/$$name benchmarks/runs/$$(basename $$name); \
	done
	test -d $(D3RLPY) || { $(PYTHON) -m venv $(D3RLPY) && $(D3RLPY)/bin/pip install --quiet torch==2.13.0 d3rlpy==2.8.1 mujoco imageio; }
	$(BIN)/python benchmarks/run.py suites/bear_pendulum.yml suites/baselines.yml suites/fine_tune.yml suites/reinforce.yml
	$(BIN)/python benchmarks/run.py suites/hopper_dataset.yml --results benchmarks/runs
	$(BIN)/python benchmarks/run.py suites/bear_hopper.yml suites/bear_n_steps.yml
	$(BIN)/python benchmarks/make_locomotion.py Hopper-v5 --steps 35000
	$(BIN)/python benchmarks/make_locomotion.py Hopper-v5 --steps 50000
	$(BIN)/python benchmarks/make_locomotion.py HalfCheetah-v5 --steps 40000
	$(BIN)/python benchmarks/make_locomotion.py Walker2d-v5 --steps 45000
	$(BIN)/python benchmarks/run.py suites/locomotion.yml suites/locomotion_narrow.yml suites/acting.yml suites/offline_figures.yml
	$(BIN)/python benchmarks/run.py suites/single_step_a2c.yml suites/zoo_entries.yml suites/trained_agents.yml
	$(BIN)/python benchmarks/speed/bear.py --d3rlpy $(D3RLPY)/bin/python
	$(BIN)/python benchmarks/speed/bear.py --fqe --threads 1 --rows 100000 --d3rlpy $(D3RLPY)/bin/python
	$(BIN)/python benchmarks/fqe.py --d3rlpy $(D3RLPY)/bin/python
	$(BIN)/python benchmarks/speed/online.py
	$(BIN)/python benchmarks/speed/loading.py formats
	$(BIN)/python benchmarks/speed/loading.py disk
	$(BIN)/python tests/zoo/kills.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/published.py benchmarks/runs/d3rlpy-benchmarks benchmarks/runs/CORL
	$(BIN)/python benchmarks/tables.py

# The searches behind the tuned entries of hyperparams/. One that was stopped goes on where it was. Each leaves a report of its
# trials in benchmarks/runs/searches/; those that the entries come from are in benchmarks/results/searches/.
SEARCH = OMP_NUM_THREADS=1 $(BIN)/sb3-pg-extras train -optimize -f benchmarks/runs/searches --num-threads 1 --seed 0 \
	--n-evaluations 5 --eval-episodes 20 --n-eval-envs 10 --n-startup-trials 8 --no-optim-plots --study-name search
SEARCHES = benchmarks/runs/searches

searches: $(INSTALLED)
	mkdir -p $(SEARCHES)
	$(SEARCH) --algo reinforce --env CartPole-v1 -n 100000 --max-total-trials 30 --storage $(SEARCHES)/reinforce-cartpole.log
	$(SEARCH) --algo reinforce --env Pendulum-v1 -n 400000 --max-total-trials 40 --storage $(SEARCHES)/reinforce-pendulum.log
	$(SEARCH) --algo reinforce --env MountainCarContinuous-v0 -n 200000 --max-total-trials 30 \
		--storage $(SEARCHES)/reinforce-mountain-car.log
	# Without the stream preset, whose optimiser has no learning rate to search.
	$(SEARCH) --algo single_step_a2c --env Pendulum-v1 -n 150000 --max-total-trials 20 \
		--storage $(SEARCHES)/single-step-pendulum.log -params policy:"'MlpPolicy'" critic_optimizer_kwargs:None
	# The behaviour model is frozen early: most of a trial's time would go into large ones.
	$(SEARCH) --algo bear --env Pendulum-v1 -n 3000 --max-total-trials 12 \
		--storage $(SEARCHES)/bear-pendulum.log -params warmup_fraction:0.2 behavior_steps:600

# The bundled dataset and its card.
dataset: $(INSTALLED)
	$(BIN)/python benchmarks/make_dataset.py
	$(BIN)/python benchmarks/tables.py

wheel: $(INSTALLED)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) docs/_build demo demo-[0-9]* dist build .mypy_cache .pytest_cache .ruff_cache
