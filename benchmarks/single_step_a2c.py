"""
SingleStepA2C against the reference experiments: ``python benchmarks/single_step_a2c.py``; ``--parts`` says where the time of
one step on Hopper-v5 goes.

Each run trains in a process of its own with one thread; its row goes to ``benchmarks/results/single_step_a2c.csv`` as it
ends, and runs that are there already are not repeated. Comparisons with stream-x need ``--stream-x``, a clone of
github.com/mohmdelsayed/streaming-drl. Its speed: ``benchmarks/online_speed.py``.
"""

import argparse
import csv
import importlib
import io
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import stream_reference
import torch as th
import yaml
from rl_zoo3.utils import get_wrapper_class
from single_step_reference import mountain_car, observation_statistics, xavier
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pg_extras import SingleStepA2C
from sb3_pg_extras.zoo import hyperparams_file
from sb3_pg_extras.zoo.jobs import run_missing

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parent / "runs"
FIELDS = ["experiment", "seed", "steps", "episodes", "last_100_return", "greedy_return", "goals", "steps_per_second"]
N_EPISODES = 300  # of the exercise on MountainCarContinuous-v0
TOTAL_STEPS = 1_000_000  # of the comparisons with stream-x

# The exercise's settings as SingleStepA2C's arguments; its initialisation and scaling of states are added where it is run.
EXERCISE: dict[str, Any] = {
    "learning_rate": 2e-5, "critic_learning_rate": 1e-3, "gamma": 0.99, "max_grad_norm": None,
    "policy_kwargs": {
        "net_arch": {"pi": [40, 40], "vf": [400, 400]}, "activation_fn": th.nn.ELU, "sparsity": None, "layer_norm": False,
        "state_dependent_std": True, "optimizer_class": th.optim.Adam, "optimizer_kwargs": {},
    },
}  # fmt: skip


class Episodes(BaseCallback):
    """Collects each episode's return, and ends the training after a number of episodes."""

    def __init__(self, n_episodes: float = np.inf) -> None:
        super().__init__()
        self.n_episodes = n_episodes
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return len(self.returns) < self.n_episodes


def zoo_model(env_id: str, seed: int) -> SingleStepA2C:
    """:return: The model that ``sb3-pg-extras train`` makes of an entry of the hyper-parameter file."""
    entry = yaml.safe_load(hyperparams_file("single_step_a2c").read_text())[env_id]
    entry.pop("n_timesteps")
    wrapper_class: Any = get_wrapper_class(entry)
    entry.pop("env_wrapper", None)
    env: VecEnv = make_vec_env(env_id, entry.pop("n_envs", 1), seed=seed, wrapper_class=wrapper_class)
    normalize = entry.pop("normalize", None)
    if normalize:
        kwargs = eval(normalize) if isinstance(normalize, str) else {}
        env = VecNormalize(env, gamma=entry.get("gamma", 0.99), **kwargs)
    if "policy_kwargs" in entry:
        entry["policy_kwargs"] = eval(entry["policy_kwargs"])
    return SingleStepA2C(env=env, seed=seed, device="cpu", **entry)


def run_mountain_car(variant: str, seed: int) -> dict[str, Any]:
    """The exercise: the script, or SingleStepA2C with its settings."""
    mean, std = observation_statistics(seed)
    if variant == "reference script":
        steps = [0]

        def count(n: int) -> bool:
            steps[0] = n
            return True

        returns, greedy = mountain_car(seed, N_EPISODES, on_step=count)
        greedy_returns = []
        env = gym.make("MountainCarContinuous-v0")
        for episode in range(100):
            obs, _ = env.reset(seed=1_000 + episode)
            total, done = 0.0, False
            while not done:
                obs, reward, terminated, truncated, _ = env.step(np.clip(greedy(obs), -1, 1))
                total, done = total + float(reward), terminated or truncated
            greedy_returns.append(total)
        return {"steps": steps[0], "returns": returns, "greedy": float(np.mean(greedy_returns))}

    def scaled(env: gym.Env) -> gym.Env:
        space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        return gym.wrappers.TransformObservation(env, lambda obs: ((obs - mean) / std).astype(np.float32), space)

    env = Monitor(scaled(gym.make("MountainCarContinuous-v0")))
    model = SingleStepA2C("StreamPolicy", env, seed=seed, device="cpu", **EXERCISE)
    model.policy.apply(xavier)
    callback = Episodes(N_EPISODES)
    model.learn(10**8, callback=callback, log_interval=None)
    test_env = make_vec_env("MountainCarContinuous-v0", 10, seed=1_000, wrapper_class=scaled)
    greedy_return = float(evaluate_policy(model, test_env, n_eval_episodes=100)[0])  # type: ignore[arg-type]
    return {"steps": model.num_timesteps, "returns": callback.returns, "greedy": greedy_return}


def run_literal(seed: int) -> dict[str, Any]:
    """CartPole-v1 with SingleStepA2C's defaults."""
    model, callback = SingleStepA2C("MlpPolicy", "CartPole-v1", seed=seed, device="cpu"), Episodes()
    model.learn(300_000, callback=callback, log_interval=None)
    test_env = make_vec_env("CartPole-v1", 10, seed=1_000)
    greedy_return = float(evaluate_policy(model, test_env, n_eval_episodes=100)[0])  # type: ignore[arg-type]
    return {"steps": model.num_timesteps, "returns": callback.returns, "greedy": greedy_return}


def run_stream(variant: str, env_id: str, seed: int, stream_x: Path | None) -> dict[str, Any]:
    """Stream AC on MuJoCo: the authors' script, or our zoo entry."""
    if variant == "stream-x's script":
        if stream_x is None:
            raise SystemExit("comparing with stream-x needs --stream-x, a clone of github.com/mohmdelsayed/streaming-drl")
        folder = RUNS / "stream_reference"
        command = [str(stream_x), "--env", env_id, "--seed", str(seed), "--total-steps", str(TOTAL_STEPS)]
        log = folder / f"{env_id}_{seed}.csv"
        if not (folder / f"{env_id}_{seed}.done").exists():
            subprocess.run([sys.executable, stream_reference.__file__, *command, "--output", str(folder)], check=True)
        with open(log) as file:
            rows = list(csv.DictReader(file))
        return {"steps": TOTAL_STEPS, "returns": [float(r["return"]) for r in rows], "seconds": float(rows[-1]["seconds"])}
    model, callback = zoo_model(env_id, seed), Episodes()
    model.learn(TOTAL_STEPS, callback=callback, log_interval=None)
    return {"steps": model.num_timesteps, "returns": callback.returns}


def run(experiment: str, seed: int, stream_x: Path | None) -> dict[str, Any]:
    """One training run."""
    th.set_num_threads(1)
    start = time.perf_counter()
    env_id, variant = experiment.split(": ")
    if env_id == "MountainCarContinuous-v0":
        result = run_mountain_car(variant, seed)
    elif env_id == "CartPole-v1":
        result = run_literal(seed)
    else:
        result = run_stream(variant, env_id, seed, stream_x)
    seconds = result.get("seconds", time.perf_counter() - start)
    returns = result["returns"]
    values = (
        experiment, seed, result["steps"], len(returns), f"{np.mean(returns[-100:]):.1f}",
        f"{result['greedy']:.1f}" if "greedy" in result else "",
        # The goal is worth 100 and the actions cost less.
        sum(r > 0 for r in returns) if env_id == "MountainCarContinuous-v0" else "",
        f"{result['steps'] / seconds:.0f}",
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


EXPERIMENTS = [
    "CartPole-v1: defaults",
    "MountainCarContinuous-v0: reference script", "MountainCarContinuous-v0: its settings, ours",
    "Hopper-v5: stream-x's script", "Hopper-v5: zoo entry",
    "HalfCheetah-v5: stream-x's script", "HalfCheetah-v5: zoo entry",
]  # fmt: skip


class Timers(BaseCallback):
    """Notes the seconds that each call of some methods takes; what one calls is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.steps: list[float] = []

    def time(self, within: str, part: str, owner: Any, method: str) -> None:
        function, seconds = getattr(owner, method), self.seconds.setdefault((within, part), [])

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds.append(time.perf_counter() - start)
            return result

        setattr(owner, method, timed)

    def _on_training_start(self) -> None:
        model = cast(SingleStepA2C, self.model)
        learner, env = model._learner, cast(Any, model.env)
        assert learner is not None
        single = env.venv.envs[0]
        self.time("one step", "acting", model, "collect_rollouts")
        self.time("acting", "network and draw", type(learner.act), "__call__")
        self.time("acting", "environment", env, "step_wait")
        self.time("environment", "without VecNormalize", env.venv, "step_wait")
        self.time("environment", "without DummyVecEnv", single, "step")
        self.time("environment", "without Monitor and wrappers", single.unwrapped, "step")
        self.time("environment", "MuJoCo's physics", single.unwrapped, "do_simulation")
        self.time("one step", "learning", model, "train")
        self.time("learning", "TD error", learner, "td_errors")
        self.time("learning", "update", learner, "update")
        self.time("update", "actor's gradient", learner.act, "backward")
        self.time("update", "critic's gradient", learner.critic, "backward")

    def _on_step(self) -> bool:
        self.steps.append(time.perf_counter())
        return True


def script_steps(stream_x: Path, steps: int) -> list[float]:
    """:return: When each step of the authors' script began."""
    starts: list[float] = []
    sys.path.insert(0, str(stream_x.resolve()))
    agent = importlib.import_module("stream_ac_continuous").StreamAC
    sample_action = agent.sample_action

    def noted(self: Any, state: Any) -> Any:
        starts.append(time.perf_counter())
        return sample_action(self, state)

    agent.sample_action = noted
    stream_reference.train(stream_x, "Hopper-v5", 0, steps, io.StringIO())
    return starts


def parts(stream_x: Path | None, steps: int = 10_000) -> None:
    """Where one step on Hopper-v5 goes, in microseconds: medians, which other work on the machine disturbs least."""
    th.set_num_threads(1)
    timers = Timers()
    zoo_model("Hopper-v5", 0).learn(steps, callback=timers, log_interval=None)
    seconds = {("", "one step"): np.diff(timers.steps), **timers.seconds}
    if stream_x is not None:
        seconds["", "one step of stream-x's script"] = np.diff(script_steps(stream_x, steps))
    with open(RESULTS / "single_step_a2c_parts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["within", "part", "microseconds"])
        for (within, part), figures in seconds.items():
            row = [within, part, f"{1e6 * np.median(figures[100:]):.0f}"]  # the first ones warm up
            writer.writerow(row)
            print(*row, sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="take the time of one step apart instead")
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--stream-x", type=Path, help="a clone of github.com/mohmdelsayed/streaming-drl")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "single_step_a2c.csv")
    args = parser.parse_args()
    if args.parts:
        parts(args.stream_x)
        return
    jobs = [(experiment, seed, args.stream_x) for experiment in args.experiments for seed in args.seeds]
    pool = ProcessPoolExecutor(args.workers)
    run_missing(args.output, FIELDS, jobs, lambda row: (row["experiment"], int(row["seed"]), args.stream_x), run, pool)


if __name__ == "__main__":
    main()
