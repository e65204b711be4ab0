"""
Make a Hopper-v5 medium-replay dataset: ``python benchmarks/make_hopper_dataset.py``.

As D4RL's sets of that name: everything that SAC stepped through until its policy was of medium quality, here a mean return
of 1,200 over 20 greedy episodes (a third of D4RL's expert). Hyper-parameters are the RL Zoo's for Hopper. The dataset goes
to ``benchmarks/runs/hopper-medium-replay.npz``, with a CSV of the evaluations beside the other results.
"""

import argparse
import csv
from pathlib import Path

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import load_dataset

HERE = Path(__file__).parent
ENV_ID, MEDIUM_RETURN, EVAL_EVERY, EPISODES, MAX_STEPS = "Hopper-v5", 1_200, 5_000, 20, 300_000
DATASET = HERE / "runs" / "hopper-medium-replay.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DATASET)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    th.set_num_threads(1)

    model = SAC(
        "MlpPolicy", make_vec_env(ENV_ID, seed=args.seed), learning_starts=10_000, buffer_size=MAX_STEPS, seed=args.seed
    )
    stop = StopTrainingOnRewardThreshold(MEDIUM_RETURN, verbose=1)
    evaluations = EvalCallback(
        make_vec_env(ENV_ID, seed=1_000), callback_on_new_best=stop, n_eval_episodes=EPISODES, eval_freq=EVAL_EVERY
    )
    results = HERE / "results" / "hopper_dataset.csv"
    evaluations.log_path = str(args.output.with_suffix(""))
    model.learn(MAX_STEPS, callback=evaluations, progress_bar=True)

    assert model.replay_buffer is not None
    dataset = load_dataset(model.replay_buffer)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    dataset.save(args.output)
    with results.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sac_steps", "return_mean", "return_std"])
        for step, returns in zip(evaluations.evaluations_timesteps, evaluations.evaluations_results, strict=True):
            values = th.tensor(returns)
            writer.writerow([step, f"{values.mean():.1f}", f"{values.std():.1f}"])
    print(dataset)


if __name__ == "__main__":
    main()
