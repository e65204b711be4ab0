"""
The searches behind the tuned entries of ``hyperparams/``: ``python benchmarks/search.py``.

Each is ``sb3-pg-extras train -optimize`` with the flags below, on a journal file in ``benchmarks/runs/searches/``, so that a
search that was stopped goes on where it was. Its trials go to ``benchmarks/results/searches/<algo>-<env>.csv``, the best
first. What won is put into ``hyperparams/`` by hand, if ``benchmarks/zoo_entries.py`` finds it better than what stands there
over seeds that the search has not seen.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import optuna

from sb3_pg_extras.zoo.storage import open_storage

HERE = Path(__file__).parent
STUDIES, RESULTS = HERE / "runs" / "searches", HERE / "results" / "searches"
EVERY = (
    "--n-evaluations 5 --eval-episodes 20 --n-eval-envs 10 --n-startup-trials 8 --num-threads 1 --seed 0 --no-optim-plots"
)
# What each trial trains for, how many there are, and what differs from the entry.
SEARCHES = {
    ("reinforce", "CartPole-v1"): "-n 100000 --max-total-trials 30",
    ("reinforce", "Pendulum-v1"): "-n 400000 --max-total-trials 40",
    ("reinforce", "MountainCarContinuous-v0"): "-n 200000 --max-total-trials 30",
    # Without the stream preset, whose optimiser has no learning rate to search.
    ("single_step_a2c", "Pendulum-v1"): (
        "-n 150000 --max-total-trials 20 -params policy:\"'MlpPolicy'\" critic_optimizer_kwargs:None"
    ),
    # The behaviour model is frozen early: most of a trial's time would go into large ones.
    ("bear", "Pendulum-v1"): "-n 3000 --max-total-trials 12 -params warmup_steps:600 behavior_steps:600",
}


def search(algo: str, env_id: str) -> None:
    name = f"{algo}-{env_id}"
    STUDIES.mkdir(parents=True, exist_ok=True)
    storage = str(STUDIES / f"{name}.log")
    flags = shlex.split(f"{EVERY} {SEARCHES[algo, env_id]}")
    command = ["train", "-optimize", "--algo", algo, "--env", env_id, "--study-name", name, "--storage", storage]
    with open(STUDIES / f"{name}.txt", "a") as log:
        subprocess.run(
            [sys.executable, "-m", "sb3_pg_extras.zoo", *command, *flags, "-f", str(STUDIES / "logs")],
            check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    write_trials(optuna.load_study(study_name=name, storage=open_storage(storage)), RESULTS / f"{name}.csv")


def write_trials(study: optuna.Study, path: Path) -> None:
    """One row per trial, the best first; those that were pruned or failed are there too."""
    trials = sorted(study.trials, key=lambda trial: (trial.state.name, -(trial.value if trial.value is not None else 0)))
    names = sorted({name for trial in trials for name in trial.params})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "mean_return", "seconds", *names])
        for trial in trials:
            seconds = "" if trial.duration is None else f"{trial.duration.total_seconds():.0f}"
            value = "" if trial.value is None else f"{trial.value:.1f}"
            values = [trial.params.get(name, "") for name in names]
            shown = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
            writer.writerow([trial.number, trial.state.name.lower(), value, seconds, *shown])
    best = study.best_trial
    print(f"{path.stem}: {len(trials)} trials, the best is {best.number} with {best.value:.1f}: {best.params}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"{algo}-{env_id}" for algo, env_id in SEARCHES]
    parser.add_argument("--searches", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    for algo, env_id in SEARCHES:
        if f"{algo}-{env_id}" in args.searches:
            search(algo, env_id)


if __name__ == "__main__":
    main()
