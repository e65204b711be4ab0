"""
How fast SingleStepA2C and REINFORCE learn through ``.learn``: ``python benchmarks/online_speed.py [--stream-x CHECKOUT]``,
which ``benchmarks/speed.py`` runs too.

The loops of a group take turns in one process with one thread, and are compared with the group's first, turn by turn.
Medians of environment steps per second go to ``benchmarks/results/online_speed.csv`` and ``docs/images/online_speed.png``.
CHECKOUT is a clone of github.com/mohmdelsayed/streaming-drl.
"""

import argparse
import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import stream_reference
import torch as th
from reinforce import network
from reinforce_reference import course, vpg
from single_step_a2c import zoo_model
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg_extras import REINFORCE, SingleStepA2C
from sb3_pg_extras.common.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "online_speed.csv"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "online_speed.png"
# Environment steps in one turn.
STEPS, ROLLOUT_STEPS = 3_000, 10_000
Job = Callable[[], float]


def learner(algorithm: Any, steps: int, n_envs: int = 1, **kwargs: Any) -> Job:
    """CartPole-v1 through ``.learn``."""
    return learn(algorithm("MlpPolicy", make_vec_env("CartPole-v1", n_envs, seed=0), seed=0, device="cpu", **kwargs), steps)


def learn(model: Any, steps: int) -> Job:
    def job() -> float:
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False, log_interval=None)
        return (model.num_timesteps - before) / (time.perf_counter() - start)

    return job


def environment(env: VecEnv | gym.Env) -> Job:
    """The floor of any learner: random actions, nobody learns."""
    actions = [env.action_space.sample() for _ in range(STEPS)]

    def job() -> float:
        env.reset()
        start = time.perf_counter()
        for action in actions:
            if isinstance(env, VecEnv):
                env.step(action[None])
            else:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()
        return STEPS / (time.perf_counter() - start)

    return job


def script(loop: Callable) -> Job:
    """An exercise's script."""

    def job() -> float:
        counted, start = [0], time.perf_counter()

        def enough(n: int) -> bool:
            counted[0] = n
            return n < ROLLOUT_STEPS

        loop(0, on_step=enough)
        return counted[0] / (time.perf_counter() - start)

    return job


def stream_script(checkout: Path) -> Job:
    """The authors' script of Stream AC."""

    def job() -> float:
        start = time.perf_counter()
        stream_reference.train(checkout, "Hopper-v5", 0, STEPS, io.StringIO())
        return STEPS / (time.perf_counter() - start)

    return job


def groups(stream_x: Path | None) -> dict[str, dict[str, Job]]:
    """:return: Group -> loop -> environment steps per second of one turn."""
    same = {"policy_kwargs": network(10, 10)}
    hopper = {
        "SingleStepA2C, stream preset": learn(zoo_model("Hopper-v5", 0), STEPS),
        "its environment alone, with SB3's Monitor, DummyVecEnv and VecNormalize": environment(
            cast(VecEnv, zoo_model("Hopper-v5", 0).env)
        ),
        "the environment alone, as gym.make gives it": environment(gym.make("Hopper-v5")),
    }
    return {
        "one-step update, CartPole-v1": {
            "SingleStepA2C": learner(SingleStepA2C, 5 * STEPS),
            "SingleStepA2C, one optimiser": learner(SingleStepA2C, 5 * STEPS, critic_learning_rate=None),
            "SingleStepA2C, kernel='torch'": learner(SingleStepA2C, STEPS, kernel="torch"),
            "SB3 A2C, n_steps=1": learner(A2C, STEPS, n_steps=1),
        },
        "one-step update, Hopper-v5": hopper
        | ({"stream-x's script": stream_script(stream_x)} if stream_x is not None else {}),
        "whole episodes, CartPole-v1, 1 environment": {
            "REINFORCE": learner(REINFORCE, ROLLOUT_STEPS, n_steps=500, **same),
            "SB3 A2C, n_steps=500": learner(A2C, ROLLOUT_STEPS, n_steps=500, **same),
            "SB3 A2C, n_steps=5": learner(A2C, ROLLOUT_STEPS, n_steps=5, **same),
            "hand-written loop (course)": script(course),
            "hand-written loop (vpg)": script(vpg),
        },
        "whole episodes, CartPole-v1, 8 environments": {
            "REINFORCE": learner(REINFORCE, ROLLOUT_STEPS, 8, n_steps=4000, **same),
            "SB3 A2C, n_steps=500": learner(A2C, ROLLOUT_STEPS, 8, n_steps=500, **same),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream-x", type=Path, help="a clone of github.com/mohmdelsayed/streaming-drl")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    th.set_num_threads(1)
    jobs = groups(args.stream_x)
    figures: dict[tuple[str, str], list[float]] = {(group, loop): [] for group in jobs for loop in jobs[group]}
    for turn in range(args.turns + 1):
        for group, loop in figures:
            figure = jobs[group][loop]()
            if turn > 0:  # the first turn warms up
                figures[group, loop].append(figure)
    rows = []
    for (group, loop), values in figures.items():
        ours = figures[group, next(iter(jobs[group]))]
        ratio = np.median(np.array(ours) / values)
        shown = [f"{f(values):.0f}" for f in (np.median, min, max)]
        rows.append(
            dict(zip(("group", "loop", "steps_per_second", "lowest", "highest"), (group, loop, *shown), strict=True))
            | {"turns": args.turns, "ours_is_faster_by": f"{ratio:.2f}"}
        )
        print(*rows[-1].values(), sep="\t")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(RESULTS) as file:
        file.write(text.getvalue().encode())
    plot(rows)


def plot(rows: list[dict[str, Any]]) -> None:
    """How many times as fast as each of the others the first loop of a group is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_group: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    sizes = [len(own) for own in by_group.values()]
    figure, all_axes = plt.subplots(len(by_group), 1, figsize=(7.5, 6.5), height_ratios=sizes, layout="constrained")
    for axes, (group, own) in zip(all_axes, by_group.items(), strict=True):
        names = [row["loop"].split(", with")[0].split(", as")[0] for row in own]
        bars = axes.barh(names, [float(row["steps_per_second"]) for row in own], color=["C0"] + ["C7"] * (len(own) - 1))
        labels = [f"x {row['ours_is_faster_by']}" if number else "" for number, row in enumerate(own)]
        axes.bar_label(bars, labels, padding=2, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(group, loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
    all_axes[-1].set_xlabel("environment steps per second (x: the first is as many times as fast)", fontsize=8)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
