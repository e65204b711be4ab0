"""
Make the bundled Pendulum-v1 dataset: ``python benchmarks/make_dataset.py``, then ``tables.py`` for the table of its card.

A SAC agent with the RL Zoo's hyper-parameters for Pendulum-v1 is trained from a fixed seed. Whole episodes are then played
with uniformly random actions, with checkpoints of the training, and with the final agent, all acting stochastically. As in a
robot's log, there are many poor episodes and few good ones. (The Hopper-v5 dataset: ``suites/hopper_dataset.yml``.)
"""

import csv
import tempfile
from dataclasses import replace

import torch as th
from run import HERE, greedy_returns
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import OfflineDataset, save_dataset
from sb3_pg_extras.datasets import collect_dataset

ENV_ID, EPISODE_STEPS, SEED = "Pendulum-v1", 200, 0
TRAINING_STEPS, CHECKPOINT_EVERY = 20_000, 500
# (training steps of the policy, episodes it plays); 0 is uniformly random.
MIXTURE = [(0, 60), (1_000, 30), (1_500, 20), (2_000, 20), (3_000, 10), (20_000, 10)]
BUNDLED, RESULTS = HERE.parent / "sb3_pg_extras" / "datasets" / "bundled", HERE / "results"


def play(policy: SAC | None, episodes: int, seed: int) -> OfflineDataset:
    """Whole episodes of a stochastic policy, or of uniformly random actions."""
    th.manual_seed(seed)
    env = make_vec_env(ENV_ID, seed=seed)
    env.action_space.seed(seed)
    act = None if policy is None else lambda observations: policy.predict(observations, deterministic=False)[0]
    return collect_dataset(env, act, episodes * EPISODE_STEPS, env_id=ENV_ID)


def main() -> None:
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sac = SAC("MlpPolicy", make_vec_env(ENV_ID, seed=SEED), learning_rate=1e-3, seed=SEED)
        sac.learn(TRAINING_STEPS, callback=CheckpointCallback(CHECKPOINT_EVERY, folder), progress_bar=True)
        policies = [SAC.load(f"{folder}/rl_model_{steps}_steps") if steps else None for steps, _ in MIXTURE]
    parts = [play(policy, n, seed) for seed, (policy, (_, n)) in enumerate(zip(policies, MIXTURE, strict=True), SEED + 1)]
    greedy = greedy_returns(sac, make_vec_env(ENV_ID, 10), 100)
    # Reference scores: the dataset's random episodes, and the greedy return of the final agent.
    scores = (float(parts[0].episode_returns().mean()), float(greedy.mean()))
    dataset = replace(parts[0].concatenate(*parts[1:]), reference_scores=scores)
    save_dataset(dataset, BUNDLED / "pendulum-mixed-v0.npz")

    labels = [f"SAC after {steps:,} steps" if steps else "uniformly random" for steps, _ in MIXTURE]
    returns = dict(zip(labels, (part.episode_returns() for part in parts), strict=True))
    returns["the whole dataset"] = dataset.episode_returns()
    returns[f"SAC after {TRAINING_STEPS:,} steps, greedy (not in the data)"] = greedy
    with open(RESULTS / "pendulum_dataset.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "episodes", "mean_return", "std"])
        writer.writerows((label, len(own), f"{own.mean():.1f}", f"{own.std():.1f}") for label, own in returns.items())


if __name__ == "__main__":
    main()
