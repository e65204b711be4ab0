"""
How fast REINFORCE and SingleStepA2C learn through ``.learn``: ``python benchmarks/speed/online.py [--turns 7]``.

Loops of a group are compared with its first, in one process with one thread; stream-x's script has its own process. Needs
mujoco, and a clone of stream-x: see ``benchmarks/references/stream.py``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from turns import Worker, ratio, summary, take_turns, write

from benchmarks.references import stream
from benchmarks.references.exercises import course, vpg
from benchmarks.run import entry_of, zoo_experiment
from sb3_pg_extras import REINFORCE, SingleStepA2C

# Environment steps in one turn.
STEPS, ROLLOUT_STEPS = 3_000, 10_000
# The network of the course's exercise.
SAME: dict[str, Any] = {
    "policy_kwargs": {"net_arch": {"pi": [10, 10], "vf": []}, "activation_fn": th.nn.ReLU, "ortho_init": False}
}


def learn(model: Any, steps: int) -> float:
    """:return: Environment steps per second."""
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(steps, reset_num_timesteps=False, log_interval=None)
    return (model.num_timesteps - before) / (time.perf_counter() - start)


def cartpole(algorithm: Any, steps: int, n_envs: int = 1, **kwargs: Any) -> Callable[[], float]:
    env = make_vec_env("CartPole-v1", n_envs, seed=0)
    return partial(learn, algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs), steps)


def play(env: Any) -> float:
    """The bound for any learner: random actions, nobody learns."""
    actions = [env.action_space.sample() for _ in range(STEPS)]
    env.reset()
    start = time.perf_counter()
    for action in actions:
        if isinstance(env, VecEnv):
            env.step(action[None])
        elif any(env.step(action)[2:4]):
            env.reset()
    return STEPS / (time.perf_counter() - start)


def script(loop: Callable[[], tuple[Any, dict[str, float]]]) -> float:
    start = time.perf_counter()
    return loop()[1]["n_timesteps"] / (time.perf_counter() - start)


def groups() -> dict[str, dict[str, Callable[[], float]]]:
    """:return: Group -> loop -> environment steps per second of one turn."""
    hopper, authors = hopper_model(), Worker(*stream.command(0, "Hopper-v5"))
    return {
        "one-step update, CartPole-v1": {
            "SingleStepA2C": cartpole(SingleStepA2C, 5 * STEPS),
            "SingleStepA2C, one optimiser": cartpole(SingleStepA2C, 5 * STEPS, critic_learning_rate=None),
            "SingleStepA2C, backend='torch'": cartpole(SingleStepA2C, STEPS, backend="torch"),
            "SB3 A2C, n_steps=1": cartpole(A2C, STEPS, n_steps=1),
        },
        "one-step update, Hopper-v5": {
            "SingleStepA2C, stream preset": partial(learn, hopper, STEPS),
            "its environment alone, with SB3's Monitor, DummyVecEnv and VecNormalize": partial(play, hopper_model().env),
            "the environment alone, as gym.make gives it": partial(play, gym.make("Hopper-v5")),
            "stream-x's script": partial(authors.speed, STEPS),
        },
        "whole episodes, CartPole-v1, 1 environment": {
            "REINFORCE": cartpole(REINFORCE, ROLLOUT_STEPS, n_steps=500, **SAME),
            "SB3 A2C, n_steps=500": cartpole(A2C, ROLLOUT_STEPS, n_steps=500, **SAME),
            "SB3 A2C, n_steps=5": cartpole(A2C, ROLLOUT_STEPS, n_steps=5, **SAME),
            "hand-written loop (course)": partial(script, partial(course, 0, "CartPole-v1", n_timesteps=ROLLOUT_STEPS)),
            "hand-written loop (vpg)": partial(script, partial(vpg, 0, "CartPole-v1", n_timesteps=ROLLOUT_STEPS)),
        },
        "whole episodes, CartPole-v1, 8 environments": {
            "REINFORCE": cartpole(REINFORCE, ROLLOUT_STEPS, 8, n_steps=4000, **SAME),
            "SB3 A2C, n_steps=500": cartpole(A2C, ROLLOUT_STEPS, 8, n_steps=500, **SAME),
        },
    }


def hopper_model() -> Any:
    """:return: The model of the zoo's entry."""
    entry = entry_of("single_step_a2c", "Hopper-v5")
    return zoo_experiment("single_step_a2c", "Hopper-v5", entry, 0, tempfile.mkdtemp(), "cpu")[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    for group, loops in groups().items():
        speeds = take_turns(loops, args.turns)
        first = next(iter(speeds.values()))
        for loop, values in speeds.items():
            row = {"group": group, "loop": loop, **summary("steps_per_second", values, 0), "turns": args.turns}
            rows.append(row | {"speed_up": f"{ratio(first, values):.2f}"})
    write("online_speed", rows)


if __name__ == "__main__":
    main()
