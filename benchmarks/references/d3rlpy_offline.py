"""
d3rlpy 2.8.1's algorithms on a dataset of ours: :func:`run` trains in the virtual environment that ``make benchmark`` makes,
where this file is a program that prints the return of each evaluation as JSON.

One thread and d3rlpy's defaults, except that actions are scaled to [-1, 1], that TD3+BC normalises observations, as
published, that BEAR's warm-up of 40,000 steps is shortened to a fifth of the training, as ours, and that BCQ draws 10
candidates instead of 100, as its authors do while training.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = Path(os.environ.get("D3RLPY", Path(__file__).parent.parent / "runs" / "venv-d3rlpy")).resolve() / "bin" / "python"
EPISODES = 10


def run(
    seed: int, env_id: str, dataset: str, algorithm: str, n_timesteps: int, every: int, policy: str = "MlpPolicy"
) -> tuple[None, dict[str, Any]]:
    """:return: No policy, and the evaluations along the training, for ``benchmarks/run.py``."""
    if not PYTHON.exists():
        sys.exit(f"d3rlpy is needed in an environment of its own: {PYTHON}, which `make benchmark` makes")
    settings = {"algorithm": algorithm, "env_id": env_id, "dataset": dataset, "seed": seed}
    settings |= {"n_timesteps": n_timesteps, "every": every}
    command = [str(PYTHON), __file__, json.dumps(settings)]
    output = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if output.returncode != 0:
        raise RuntimeError(output.stderr)
    return None, json.loads(output.stdout) | {"n_timesteps": n_timesteps}


def greedy_returns(policy: Any, env_id: str) -> np.ndarray:
    """:return: Undiscounted returns of episodes whose starts are always the same, played side by side, (EPISODES,)."""
    import gymnasium as gym

    envs = [gym.make(env_id) for _ in range(EPISODES)]
    observations = np.stack([env.reset(seed=1_000 + number)[0] for number, env in enumerate(envs)]).astype(np.float32)
    total, playing = np.zeros(EPISODES), np.arange(EPISODES)
    while len(playing) > 0:
        ends = []
        for number, action in zip(playing, policy.predict(observations[playing]), strict=True):
            space: Any = envs[number].action_space
            action = np.clip(action, space.low, space.high).astype(space.dtype)
            observations[number], reward, terminated, truncated, _ = envs[number].step(action)
            total[number] += float(reward)
            ends.append(terminated or truncated)
        playing = playing[~np.array(ends)]
    return total


def main(algorithm: str, env_id: str, dataset: str, seed: int, n_timesteps: int, every: int) -> dict[str, Any]:
    """:return: Mean returns by gradient steps, and the seconds of the training alone."""
    import d3rlpy
    import torch as th

    configs = {
        "bc": d3rlpy.algos.BCConfig,
        "bcq": d3rlpy.algos.BCQConfig,
        "bear": d3rlpy.algos.BEARConfig,
        "iql": d3rlpy.algos.IQLConfig,
        "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
    }
    th.set_num_threads(1)
    d3rlpy.seed(seed)
    arrays = np.load(dataset)
    metadata = json.loads(str(arrays["metadata"]))
    stops = arrays["truncations"].copy()
    # d3rlpy would join an episode that just stops to the next one.
    stops[arrays["episode_ends"] - 1] |= ~arrays["terminations"][arrays["episode_ends"] - 1]
    names = ("observations", "actions", "rewards", "terminations")
    data = d3rlpy.dataset.MDPDataset(*(arrays[name] for name in names), stops)
    box, shape = metadata["action_space"], arrays["actions"].shape[1:]
    low, high = (np.broadcast_to(np.array(box[bound], np.float32), shape) for bound in ("low", "high"))
    kwargs: dict[str, Any] = {"action_scaler": d3rlpy.preprocessing.MinMaxActionScaler(minimum=low, maximum=high)}
    if algorithm == "td3_bc":
        kwargs["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler()
    if algorithm == "bear":
        kwargs["warmup_steps"] = n_timesteps // 5
    if algorithm == "bcq":
        kwargs["n_action_samples"] = 10
    learner = configs[algorithm](**kwargs).create(device="cpu")

    evaluations: dict[int, float] = {}
    start, seconds = time.perf_counter(), 0.0
    no_log = d3rlpy.logging.NoopAdapterFactory()
    epochs = {"n_steps": n_timesteps, "n_steps_per_epoch": every, "show_progress": False, "logger_adapter": no_log}
    for epoch, _ in learner.fitter(data, **epochs):
        seconds += time.perf_counter() - start
        evaluations[epoch * every] = round(float(greedy_returns(learner, env_id).mean()), 1)
        start = time.perf_counter()
    return {"evaluations": evaluations, "seconds": seconds}


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # d3rlpy prints
    print(json.dumps(main(**json.loads(sys.argv[1]))), file=answers)
