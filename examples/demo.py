"""
BEAR's main job from end to end: ``make demo``.

Trains BEAR on the bundled Pendulum-v1 dataset through the RL Zoo's train command, compares it with behaviour cloning and
with the policies that made the data, and leaves a table, a learning curve and a video in ``demo/``; where that exists, in
``demo-2/`` and so on.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

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


def greedy_returns(policy: Any) -> np.ndarray:
    """:return: Returns of greedy episodes, from the same starts for every policy."""
    env = make_vec_env(ENV_ID, 10, seed=1_000)
    return np.array(evaluate_policy(policy, env, EPISODES, return_episode_rewards=True)[0])


def plot_learning_curve(path: Path, levels: dict[str, float]) -> None:
    """Evaluation returns along the training, against what the data holds."""
    evaluations = np.load(path)
    steps, results = evaluations["timesteps"], evaluations["results"]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, results.mean(axis=1), label="BEAR")
    axes.fill_between(steps, results.min(axis=1), results.max(axis=1), alpha=0.2, label="worst and best episode")
    for index, (label, level) in enumerate(levels.items(), start=1):
        axes.axhline(level, color=f"C{index}", linestyle="--", label=label)
    axes.set(xlabel="gradient steps", ylabel="return of an episode", title=f"BEAR on the bundled {ENV_ID} dataset")
    axes.legend(loc="center right")
    figure.savefig(FOLDER / "learning_curve.png", dpi=120)


def main() -> None:
    FOLDER.mkdir()
    print("BEAR learns Pendulum-v1 from the dataset that comes with the package: 20,000 gradient steps, a few minutes.\n")
    train = ("train", "--algo", "bear", "--env", ENV_ID, "--seed", str(SEED), "--num-threads", "1", "--progress")
    zoo(
        *train,
        "--eval-freq",
        "2000",
        "--eval-episodes",
        "20",
        "--n-eval-envs",
        "20",
        "--verbose",
        "0",
        "--log-interval",
        "-2",
    )
    run = FOLDER / "logs" / "bear" / f"{ENV_ID}_1"

    model = BEAR.load(run / f"{ENV_ID}.zip")
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    assert dataset.reference_scores is not None
    returns = {
        "the data's own policies": dataset.episode_returns(),
        "behaviour cloning (BEAR's VAE)": greedy_returns(model.behavior_vae),
        "BEAR": greedy_returns(model),
        "the SAC agent that made the data": np.array(dataset.reference_scores[1:]),
    }
    print(f"\nMean return on {ENV_ID}, {EPISODES} greedy episodes ({dataset.n_episodes} episodes in the data):")
    for name, own in returns.items():
        print(f"  {name:<36}{own.mean():>9.1f}" + (f"  +/- {own.std():.1f}" if len(own) > 1 else ""))
    plot_learning_curve(run / "evaluations.npz", {name: own.mean() for name, own in returns.items() if name != "BEAR"})
    zoo("record_video", "--algo", "bear", "--env", ENV_ID, "-f", "logs", "-n", "400", "-o", str(FOLDER))
    print(
        "\nA learning curve and a video:",
        *(path.relative_to(ROOT) for path in [*FOLDER.glob("*.png"), *FOLDER.glob("*.mp4")]),
    )
    print("To watch it in a window:\n")
    print(f"  . .venv/bin/activate\n  sb3-pg-extras enjoy --algo bear --env {ENV_ID} -f {FOLDER.name}/logs -n 1000")


if __name__ == "__main__":
    main()
