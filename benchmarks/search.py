"""
The searches behind the tuned entries of ``hyperparams/``: ``python benchmarks/search.py``.

Each is ``sb3-pg-extras train -optimize`` with the flags below, on a journal file in ``benchmarks/runs/searches/``: a search
that was stopped goes on where it was. Its trials go to ``benchmarks/results/searches/<algo>-<env>.csv``, the best first. What
won is put into ``hyperparams/`` by hand, if ``suites/zoo_entries.yml`` finds it better over seeds that the search has not seen.
"""

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


def main() -> None:
    STUDIES.mkdir(parents=True, exist_ok=True)
    for (algo, env_id), flags in SEARCHES.items():
        name = f"{algo}-{env_id}"
        storage = str(STUDIES / f"{name}.log")
        command = (
            f"-m sb3_pg_extras.zoo train -optimize --algo {algo} --env {env_id} --study-name {name} --storage {storage}"
        )
        arguments = shlex.split(f"{command} {EVERY} {flags} -f {STUDIES / 'logs'}")
        with open(STUDIES / f"{name}.txt", "a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *arguments], check=True, stdout=log, stderr=log, env=environment)
        study = optuna.load_study(study_name=name, storage=open_storage(storage))
        trials = study.trials_dataframe(("number", "state", "value", "duration", "params")).sort_values(
            "value", ascending=False
        )
        trials.columns = [column.removeprefix("params_") for column in trials.columns]
        trials.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.4g")
        print(f"{name}: {len(trials)} trials, the best is {study.best_trial.number} with {study.best_value:.1f}", flush=True)


if __name__ == "__main__":
    main()
