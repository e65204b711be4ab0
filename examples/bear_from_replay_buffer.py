"""
Offline learning from SAC's replay buffer, and online again: ``python examples/bear_from_replay_buffer.py``, three minutes.

SAC is stopped while it is a beginner. BEAR learns from what it has seen, without a further step in the environment, and is
compared with behaviour cloning and with the data. SAC then goes on from BEAR's networks.
"""

import argparse
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras import BC, BEAR, load_dataset

ENV_ID = "Pendulum-v1"
SMALL = {"net_arch": [64, 64]}


def mean_return(policy: Any, episodes: int) -> float:
    """:return: The mean return of greedy episodes, from the same starts for every policy."""
    mean, _ = evaluate_policy(policy, make_vec_env(ENV_ID, 10, seed=1_000), episodes)
    return float(mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bear_from_replay_buffer"))
    parser.add_argument("--sac-steps", type=int, default=2_500, help="steps of SAC in the environment before it is stopped")
    parser.add_argument("--steps", type=int, default=3_000, help="gradient steps of behaviour cloning and of BEAR")
    parser.add_argument("--online-steps", type=int, default=1_000, help="steps in the environment from BEAR's networks on")
    parser.add_argument("--episodes", type=int, default=20, help="deterministic episodes to evaluate each policy")
    args = parser.parse_args()
    th.set_num_threads(1)

    # Where `sb3-pg-extras train --algo sac --save-replay-buffer` leaves it.
    buffer = args.folder / "logs" / "sac" / f"{ENV_ID}_1" / "replay_buffer.pkl"
    buffer.parent.mkdir(parents=True, exist_ok=True)
    beginner = SAC("MlpPolicy", ENV_ID, learning_rate=1e-3, policy_kwargs=SMALL, seed=0)
    beginner.learn(args.sac_steps, progress_bar=True)
    beginner.save_replay_buffer(buffer)
    data = load_dataset(buffer)
    print(data.summary(), end="\n\n")

    cloned = BC("MlpPolicy", ENV_ID, buffer, policy_kwargs=SMALL, seed=0)
    bear = BEAR(
        "MlpPolicy", ENV_ID, buffer, learning_rate=1e-3, critic_learning_rate=1e-3, gamma=0.98, mmd_estimator="unbiased",
        mmd_threshold=0.1, n_steps=1, behavior_steps=args.steps // 3, policy_kwargs=SMALL | {"vae_net_arch": [64, 64]},
        seed=0,
    )  # fmt: skip
    for model in (cloned, bear):
        model.learn(args.steps, log_interval=None, progress_bar=True)
    tuned = bear.to_sac(make_vec_env(ENV_ID, seed=1), seed=0)
    tuned.learn(args.online_steps, progress_bar=True)

    print(f"\nMean return on {ENV_ID}, {args.episodes} greedy episodes:")
    print(f"  {'the data':<26}{data.episode_returns().mean():8.1f}")
    policies = {"SAC, stopped early": beginner, "behaviour cloning": cloned, "BEAR": bear, "BEAR, then SAC": tuned}
    for name, policy in policies.items():
        print(f"  {name:<26}{mean_return(policy, args.episodes):8.1f}")


if __name__ == "__main__":
    main()
