"""
Make the bundled Pendulum-v1 dataset and its card: ``python benchmarks/make_pendulum_dataset.py``.

A SAC agent with the RL Zoo's hyper-parameters for Pendulum-v1 is trained from a fixed seed. Whole episodes are then
rolled with uniformly random actions, with checkpoints from along the training, and with the final agent, all acting
stochastically, as a robot's log might hold: many beginner's episodes, few good ones.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras.datasets import OfflineDataset, collect_dataset
from sb3_pg_extras.datasets.load import BUNDLED_DATASETS

ENV_ID, EPISODE_STEPS, SEED = "Pendulum-v1", 200, 0
TRAINING_STEPS, CHECKPOINT_EVERY = 20_000, 500
# (training steps of the policy, episodes it plays); 0 is uniformly random.
MIXTURE = [(0, 60), (1_000, 30), (1_500, 20), (2_000, 20), (3_000, 10), (20_000, 10)]
BUNDLED = Path(__file__).parent.parent / "sb3_pg_extras" / "datasets" / "bundled"


def train_sac(folder: Path) -> SAC:
    """Train SAC as in rl-zoo3's hyperparams/sac.yml for Pendulum-v1, leaving checkpoints in ``folder``."""
    model = SAC("MlpPolicy", make_vec_env(ENV_ID, seed=SEED), learning_rate=1e-3, seed=SEED)
    return model.learn(TRAINING_STEPS, callback=CheckpointCallback(CHECKPOINT_EVERY, str(folder)), progress_bar=True)


def roll(policy: SAC | None, episodes: int, seed: int) -> OfflineDataset:
    """Whole episodes of a stochastic policy, or of uniformly random actions."""
    th.manual_seed(seed)
    env = make_vec_env(ENV_ID, seed=seed)
    env.action_space.seed(seed)
    act = None if policy is None else lambda observations: policy.predict(observations, deterministic=False)[0]
    return collect_dataset(env, act, episodes * EPISODE_STEPS, env_id=ENV_ID)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path(__file__).parent / "runs" / "pendulum-sac")
    parser.add_argument("--output", type=Path, default=BUNDLED)
    args = parser.parse_args()
    th.set_num_threads(1)

    sac = train_sac(args.runs)
    sac_return, sac_std = evaluate_policy(sac, make_vec_env(ENV_ID, seed=1_000), n_eval_episodes=100)
    parts, rows = [], []
    for seed, (steps, episodes) in enumerate(MIXTURE, start=SEED + 1):
        policy = None if steps == 0 else SAC.load(args.runs / f"rl_model_{steps}_steps")
        part = roll(policy, episodes, seed)
        parts.append(part)
        returns = part.episode_returns()
        rows.append({"policy": steps, "episodes": episodes, "mean": returns.mean(), "std": returns.std()})
        print(f"{steps:>6} steps: {part}")

    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    spaces = {"observation_space": parts[0].observation_space, "action_space": parts[0].action_space}
    # Reference scores: this data's own random episodes, and the agent that made it, greedily.
    dataset = OfflineDataset(**columns, **spaces, env_id=ENV_ID, reference_scores=(rows[0]["mean"], float(sac_return)))
    name = BUNDLED_DATASETS[ENV_ID]
    dataset.save(args.output / f"{name}.npz")
    rows.append({"policy": "all", "episodes": dataset.n_episodes, **_stats(dataset.episode_returns())})
    rows.append({"policy": "final, greedy", "episodes": 100, "mean": sac_return, "std": sac_std})
    write_card(args.output / f"{name}.md", name, dataset, rows)
    with open(args.output / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["policy", "episodes", "mean", "std"])
        writer.writeheader()
        writer.writerows({**row, "mean": f"{row['mean']:.2f}", "std": f"{row['std']:.2f}"} for row in rows)
    print(f"{dataset}\nSAC greedy: {sac_return:.1f} +/- {sac_std:.1f}\nwritten to {args.output / name}.npz")


def _stats(returns: np.ndarray) -> dict[str, float]:
    return {"mean": returns.mean(), "std": returns.std()}


def write_card(path: Path, name: str, dataset: OfflineDataset, rows: list[dict]) -> None:
    """Say beside the data how it was made and what it holds."""
    labels = {steps: f"SAC after {steps:,} steps" for steps, _ in MIXTURE} | {
        0: "uniformly random",
        "all": "**the whole dataset**",
        "final, greedy": f"SAC after {TRAINING_STEPS:,} steps, greedy (not in the data)",
    }
    table = "\n".join(
        f"| {labels[row['policy']]} | {row['episodes']} | {row['mean']:.1f} | {row['std']:.1f} |" for row in rows
    )
    path.write_text(f"""# {name}

{len(dataset):,} transitions of {ENV_ID} in {dataset.n_episodes} whole episodes of {EPISODE_STEPS} steps, all ended by the
time limit. Mixed quality: mostly beginner's play, {MIXTURE[-1][1]} episodes of the trained agent.

Made by `python benchmarks/make_pendulum_dataset.py`: SAC from Stable-Baselines3 with the RL Zoo's hyper-parameters for
{ENV_ID}, seed {SEED}, {TRAINING_STEPS:,} steps; the checkpoints below then acted stochastically. The same figures are
in `{name}.csv`.

| policy | episodes | mean return | std |
|---|---|---|---|
{table}
""")


if __name__ == "__main__":
    main()
