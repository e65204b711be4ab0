"""
From offline to online: ``python benchmarks/fine_tune.py``.

Trains the zoo's BEAR entry for Pendulum-v1 on the bundled dataset, hands it to SAC (``to_sac``) and goes on online, next to
SAC from scratch with the same hyper-parameters. Every 500 environment steps 50 greedy episodes from the same starts are
played. The rows of a run go to ``benchmarks/results/fine_tune.csv`` as it ends; runs that are there already are not
repeated. BEAR models are kept in ``benchmarks/runs/fine_tune``. ``docs/images/fine_tune.png`` is drawn from the rows.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras import BEAR
from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.zoo import hyperparams_file

ENV_ID, EPISODES = "Pendulum-v1", 50
TOTAL_STEPS, EVAL_FREQ = 8_000, 500
# Gradient steps of BEAR; its warm-up takes the first 2,000.
EARLY, FULL = 2_500, 20_000
FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "fine_tune.csv"
IMAGE = FOLDER.parent / "docs" / "images" / "fine_tune.png"
CLOSE_UP = (-350, -140)  # returns, for the second picture
FIELDS = ["which", "seed", "steps", "return"]
# Gradient steps of BEAR (None: SAC from scratch) and arguments of to_sac.
VARIANTS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "SAC from scratch": (None, {}),
    "BEAR, then SAC": (FULL, {}),
    "BEAR, then SAC without the dataset": (FULL, {"keep_dataset": False}),
    "BEAR, then SAC with policy='MlpPolicy'": (FULL, {"policy": "MlpPolicy"}),
    "BEAR stopped early, then SAC": (EARLY, {}),
}


def bear_models(seed: int) -> dict[int, BEAR]:
    """:return: The BEAR models of a seed by gradient steps: loaded if they are there, else trained in one run and saved."""
    paths = {steps: FOLDER / "runs" / "fine_tune" / f"bear_{seed}_{steps}.zip" for steps in (EARLY, FULL)}
    if not all(path.exists() for path in paths.values()):
        entry = yaml.safe_load(hyperparams_file("bear").read_text())[ENV_ID]
        entry.pop("n_timesteps")
        entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # as the zoo does
        model = BEAR(env=ENV_ID, seed=seed, device="cpu", **entry)
        for steps, path in paths.items():
            model.learn(steps - model.num_timesteps, reset_num_timesteps=False, progress_bar=True).save(path)
    return {steps: BEAR.load(path, device="cpu") for steps, path in paths.items()}


def greedy_return(model: SAC) -> float:
    """:return: Mean return of greedy episodes, always from the same starts."""
    return float(evaluate_policy(model, make_vec_env(ENV_ID, EPISODES, seed=1_000), EPISODES)[0])  # type: ignore[arg-type]


def run(which: str, seed: int) -> list[dict[str, Any]]:
    """:return: The rows of one run."""
    gradient_steps, arguments = VARIANTS[which]
    bear = bear_models(seed)[gradient_steps or FULL]
    if gradient_steps is None:
        shared = {name: getattr(bear, name) for name in ("batch_size", "tau", "gamma")}
        policy_kwargs = {"net_arch": bear.policy_kwargs["net_arch"]}
        rate = bear.critic_learning_rate
        model = SAC("MlpPolicy", ENV_ID, rate, policy_kwargs=policy_kwargs, seed=seed, device="cpu", **shared)
    else:
        model = bear.to_sac(ENV_ID, seed=seed, **arguments)
    rows = []
    for steps in range(0, TOTAL_STEPS + 1, EVAL_FREQ):
        if steps > 0:
            model.learn(EVAL_FREQ, reset_num_timesteps=False, log_interval=None)  # type: ignore[arg-type]
        rows.append(dict(zip(FIELDS, (which, seed, steps, f"{greedy_return(model):.1f}"), strict=True)))
    print(which, seed, *(row["return"] for row in rows), flush=True)
    return rows


def plot(rows: list[dict[str, str]]) -> None:
    """Mean over seeds along the online steps, and the worst and best seed, shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (whole, close) = plt.subplots(1, 2, figsize=(10, 4))
    for which in VARIANTS:
        curves: dict[int, list[float]] = {}
        for row in rows:
            if row["which"] == which:
                curves.setdefault(int(row["steps"]), []).append(float(row["return"]))
        if not curves:
            continue
        returns = list(curves.values())
        for axes in (whole, close):
            (line,) = axes.plot(list(curves), [np.mean(r) for r in returns], label=which)
            worst, best = [min(r) for r in returns], [max(r) for r in returns]
            axes.fill_between(list(curves), worst, best, color=line.get_color(), alpha=0.15)
    whole.set(xlabel="environment steps", ylabel="mean return", title=ENV_ID)
    close.set(xlabel="environment steps", ylim=CLOSE_UP, title="the same, closer")
    whole.legend(loc="lower right", fontsize="small")
    figure.tight_layout()
    with atomic_write(IMAGE) as file:
        figure.savefig(file, dpi=80, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    th.set_num_threads(1)
    rows: list[dict[str, Any]] = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    done = {(row["which"], int(row["seed"])) for row in rows}
    for job in [(which, seed) for seed in args.seeds for which in VARIANTS]:
        if job not in done:
            new = run(*job)
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if not rows:
                    writer.writeheader()
                writer.writerows(new)
            rows += new
        plot(rows)


if __name__ == "__main__":
    main()
