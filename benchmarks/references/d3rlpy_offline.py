"""
d3rlpy's algorithms on a dataset of ours, run by the Python of a virtual environment with d3rlpy 2.8.1, which
``make benchmark`` makes:
``benchmarks/references/d3rlpy_offline.py td3_bc Hopper-v5 hopper.npz --seed 0 --steps 50000 --every 5000``.

It prints a CSV row for each evaluation: returns of episodes that the greedy policy plays. One thread, d3rlpy's defaults,
except that TD3+BC normalises observations, as published.
"""

import argparse
import csv
import json
import sys
import time

import d3rlpy
import gymnasium as gym
import numpy as np
import torch as th

CONFIGS = {
    "bc": d3rlpy.algos.BCConfig,
    "bcq": d3rlpy.algos.BCQConfig,
    "bear": d3rlpy.algos.BEARConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
}


def returns(policy: "d3rlpy.algos.QLearningAlgoBase", env_id: str, n_episodes: int) -> np.ndarray:
    """:return: Undiscounted returns of episodes whose starts are always the same, played side by side, (n_episodes,)."""
    envs = [gym.make(env_id) for _ in range(n_episodes)]
    observations = np.stack([env.reset(seed=1_000 + number)[0] for number, env in enumerate(envs)]).astype(np.float32)
    total, playing = np.zeros(n_episodes), np.arange(n_episodes)
    while len(playing) > 0:
        ends = []
        for number, action in zip(playing, policy.predict(observations[playing]), strict=True):
            space = envs[number].action_space
            action = np.clip(action, space.low, space.high).astype(space.dtype)
            observations[number], reward, terminated, truncated, _ = envs[number].step(action)
            total[number] += float(reward)
            ends.append(terminated or truncated)
        playing = playing[~np.array(ends)]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=CONFIGS)
    parser.add_argument("env")
    parser.add_argument("dataset", help="an .npz that save_dataset wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()
    th.set_num_threads(1)
    d3rlpy.seed(args.seed)
    output, sys.stdout = sys.stdout, sys.stderr  # d3rlpy prints
    rows = csv.writer(output)

    arrays = np.load(args.dataset)
    stops = arrays["truncations"].copy()
    # d3rlpy would join an episode that just stops to the next one.
    stops[arrays["episode_ends"] - 1] |= ~arrays["terminations"][arrays["episode_ends"] - 1]
    names = ("observations", "actions", "rewards", "terminations")
    dataset = d3rlpy.dataset.MDPDataset(*(arrays[name] for name in names), stops)
    box = json.loads(str(arrays["metadata"]))["action_space"]
    shape = arrays["actions"].shape[1:]
    low, high = (np.broadcast_to(np.array(box[bound], np.float32), shape) for bound in ("low", "high"))
    kwargs = {"action_scaler": d3rlpy.preprocessing.MinMaxActionScaler(minimum=low, maximum=high)}
    if args.algorithm == "td3_bc":
        kwargs["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler()
    algorithm = CONFIGS[args.algorithm](**kwargs).create(device="cpu")

    rows.writerow(["algorithm", "env", "dataset", "seed", "n_timesteps", "return_mean", "return_std", "seconds"])
    start, training = time.perf_counter(), 0.0
    no_log = d3rlpy.logging.NoopAdapterFactory()
    epochs = {"n_steps": args.steps, "n_steps_per_epoch": args.every, "show_progress": False, "logger_adapter": no_log}
    for epoch, _ in algorithm.fitter(dataset, **epochs):
        training += time.perf_counter() - start
        played = returns(algorithm, args.env, args.episodes)
        figures = f"{played.mean():.1f} {played.std():.1f} {training:.1f}".split()
        rows.writerow([f"d3rlpy {args.algorithm}", args.env, args.dataset, args.seed, epoch * args.every, *figures])
        output.flush()
        start = time.perf_counter()


if __name__ == "__main__":
    main()
