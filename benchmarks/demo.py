"""
BEAR's main job from end to end: ``make demo``.

Trains BEAR on the bundled Pendulum-v1 dataset through the RL Zoo's train command, compares it with behaviour cloning and
with the policies that made the data, and leaves a table, a learning curve and a video in ``demo/``; where that exists, in
``demo-2/`` and so on.
"""

import csv
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from run import greedy_returns
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import BEAR, load_dataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENV_ID, SEED, EPISODES = "Pendulum-v1", 0, 100
ROOT = Path(__file__).parent.parent
# No earlier demo is deleted.
NAMES = itertools.chain(["demo"], (f"demo-{number}" for number in itertools.count(2)))
FOLDER = next(ROOT / name for name in NAMES if not (ROOT / name).exists())


def zoo(*arguments: str) -> None:
    """Run our command as a user would; headless."""
    print("$ sb3-pg-extras", *arguments, flush=True)
    command = [sys.executable, "-m", "sb3_pg_extras.zoo", *arguments]
    subprocess.run(command, check=True, cwd=FOLDER, env={**os.environ, "SDL_VIDEODRIVER": "dummy"})


def gradient_steps_per_second(path: Path, steps: int = 300) -> float:
    """Speed of the loop alone, on a copy of the trained model."""
    model = BEAR.load(path).learn(10, reset_num_timesteps=False)
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - start)


def plot_learning_curve(run: Path, levels: dict[str, float]) -> Path:
    """Evaluation returns along the training, against what the data holds."""
    evaluations = np.load(run / "evaluations.npz")
    steps, results = evaluations["timesteps"], evaluations["results"]
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(steps, results.mean(axis=1), color="C0", label="BEAR")
    axes.fill_between(steps, results.min(axis=1), results.max(axis=1), color="C0", alpha=0.2, label="worst and best episode")
    for index, (label, level) in enumerate(levels.items(), start=1):
        axes.axhline(level, color=f"C{index}", linestyle="--", label=label)
    axes.set(xlabel="gradient steps", ylabel="return of an episode", title=f"BEAR on the bundled {ENV_ID} dataset")
    axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(FOLDER / "learning_curve.png", dpi=120)
    return FOLDER / "learning_curve.png"


def main() -> None:
    FOLDER.mkdir()
    train = ("train", "--algo", "bear", "--env", ENV_ID, "--seed", str(SEED), "--num-threads", "1", "--progress")
    zoo(*train, "--eval-freq", "2000", "--eval-episodes", "20", "--n-eval-envs", "20")
    run = FOLDER / "logs" / "bear" / f"{ENV_ID}_1"

    model = BEAR.load(run / f"{ENV_ID}.zip")
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    assert dataset.reference_scores is not None
    env = make_vec_env(ENV_ID, 10)
    returns = {
        "the data's own policies": dataset.episode_returns(),
        "behaviour cloning (BEAR's VAE)": greedy_returns(model.behavior_vae, env, EPISODES),
        "BEAR": greedy_returns(model, env, EPISODES),
    }
    rows = {name: (own.mean(), own.std()) for name, own in returns.items()}
    rows["the SAC agent that made the data"] = (dataset.reference_scores[1], np.nan)
    print(f"\nMean return on {ENV_ID}, {EPISODES} greedy episodes ({dataset.n_episodes} episodes in the data):")
    for name, (mean, std) in rows.items():
        print(f"  {name:<36}{mean:>9.1f}" + ("" if np.isnan(std) else f"  +/- {std:.1f}"))
    with open(FOLDER / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "mean_return", "std_return"])
        writer.writerows([name, f"{mean:.2f}", f"{std:.2f}"] for name, (mean, std) in rows.items())
    print(f"Gradient steps per second: {gradient_steps_per_second(run / f'{ENV_ID}.zip'):.0f}\n")

    levels = {name: mean for name, (mean, _) in rows.items() if name != "BEAR"}
    curve = plot_learning_curve(run, levels)
    zoo("record_video", "--algo", "bear", "--env", ENV_ID, "-f", "logs", "-n", "400", "-o", str(FOLDER))
    print(
        "\nLeft behind:",
        *(path.relative_to(FOLDER.parent) for path in [FOLDER / "results.csv", curve, *FOLDER.glob("*.mp4")]),
    )
    print(f"Watch it live: sb3-pg-extras enjoy --algo bear --env {ENV_ID} -f {FOLDER.name}/logs")


if __name__ == "__main__":
    main()
