"""
Make the bundled Pendulum-v1 dataset and its card: ``python benchmarks/make_dataset.py``.

A SAC agent with the RL Zoo's hyper-parameters for Pendulum-v1 is trained from a fixed seed. Whole episodes are then played
with uniformly random actions, with checkpoints from along the training, and with the final agent, all acting stochastically,
as a robot's log might hold: many beginner's episodes, few good ones. (The Hopper-v5 dataset: ``suites/hopper_dataset.yml``.)
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch as th
from run import greedy_returns
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import OfflineDataset, save_dataset
from sb3_pg_extras.datasets import collect_dataset

ENV_ID, EPISODE_STEPS, SEED, NAME = "Pendulum-v1", 200, 0, "pendulum-mixed-v0"
TRAINING_STEPS, CHECKPOINT_EVERY = 20_000, 500
# (training steps of the policy, episodes it plays); 0 is uniformly random.
MIXTURE = [(0, 60), (1_000, 30), (1_500, 20), (2_000, 20), (3_000, 10), (20_000, 10)]
FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
BUNDLED = Path(__file__).parent.parent / "sb3_pg_extras" / "datasets" / "bundled"
CARD = """# {name}

{n:,} transitions of Pendulum-v1 in {n_episodes} whole episodes of {length} steps, all ended by the time limit. Mixed
quality: mostly beginner's play, {n_good} episodes of the trained agent.

Made by `python benchmarks/make_dataset.py`: SAC from Stable-Baselines3 with the RL Zoo's hyper-parameters for Pendulum-v1,
seed {seed}, {steps:,} steps; the checkpoints below then acted stochastically. The same figures are in `{name}.csv`.

| policy | episodes | mean return | std |
|---|---|---|---|
{table}
"""


def play(policy: SAC | None, episodes: int, seed: int) -> OfflineDataset:
    """Whole episodes of a stochastic policy, or of uniformly random actions."""
    th.manual_seed(seed)
    env = make_vec_env(ENV_ID, seed=seed)
    env.action_space.seed(seed)
    act = None if policy is None else lambda observations: policy.predict(observations, deterministic=False)[0]
    return collect_dataset(env, act, episodes * EPISODE_STEPS, env_id=ENV_ID)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=BUNDLED, help="a folder")
    args = parser.parse_args()
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sac = SAC("MlpPolicy", make_vec_env(ENV_ID, seed=SEED), learning_rate=1e-3, seed=SEED)
        sac.learn(TRAINING_STEPS, callback=CheckpointCallback(CHECKPOINT_EVERY, folder), progress_bar=True)
        policies = [SAC.load(f"{folder}/rl_model_{steps}_steps") if steps else None for steps, _ in MIXTURE]
    parts = [play(policy, n, seed) for seed, (policy, (_, n)) in enumerate(zip(policies, MIXTURE, strict=True), SEED + 1)]
    greedy = greedy_returns(sac, make_vec_env(ENV_ID, 10), 100)
    # Reference scores: these data's own random episodes, and the agent that made them, greedily.
    scores = (float(parts[0].episode_returns().mean()), float(greedy.mean()))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
    spaces = {"observation_space": parts[0].observation_space, "action_space": parts[0].action_space}
    dataset = OfflineDataset(**columns, **spaces, env_id=ENV_ID, reference_scores=scores)
    save_dataset(dataset, str(args.output / f"{NAME}.npz"))

    labels = [f"SAC after {steps:,} steps" if steps else "uniformly random" for steps, _ in MIXTURE]
    returns = dict(zip(labels, (part.episode_returns() for part in parts), strict=True))
    returns["**the whole dataset**"] = dataset.episode_returns()
    returns[f"SAC after {TRAINING_STEPS:,} steps, greedy (not in the data)"] = greedy
    rows = [(label, len(own), own.mean(), own.std()) for label, own in returns.items()]
    table = "\n".join(f"| {label} | {n} | {mean:.1f} | {std:.1f} |" for label, n, mean, std in rows)
    facts = {"name": NAME, "n": len(dataset), "n_episodes": dataset.n_episodes, "length": EPISODE_STEPS, "seed": SEED}
    card = CARD.format(**facts, n_good=MIXTURE[-1][1], steps=TRAINING_STEPS, table=table)
    (args.output / f"{NAME}.md").write_text(card)
    with open(args.output / f"{NAME}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "episodes", "mean", "std"])
        writer.writerows((label.strip("*"), n, f"{mean:.2f}", f"{std:.2f}") for label, n, mean, std in rows)
    print(table)


if __name__ == "__main__":
    main()
