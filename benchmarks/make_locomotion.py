"""
Make the nine locomotion datasets: ``python benchmarks/make_locomotion.py`` (hours on one core; needs mujoco).

For each of Hopper-v5, HalfCheetah-v5 and Walker2d-v5 a CrossQ agent is trained from a fixed seed. "Expert" is the best of
its checkpoints, "medium" the one whose greedy return is closest to half of the expert's. As in D4RL,

    medium          what the medium checkpoint does, acting stochastically
    medium-replay   every step that the agent took until then, or its first 30,000 if it took fewer
    medium-expert   one half of each

The files are written to ``benchmarks/runs/locomotion``, one row for each to ``benchmarks/results/locomotion_datasets.csv``.
A training that was stopped resumes from its last checkpoint, with other random numbers.
"""

import argparse
import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import torch as th
from sb3_contrib import CrossQ
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed

from sb3_pg_extras import OfflineDataset, load_dataset, save_dataset
from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets import collect_dataset

HERE = Path(__file__).parent
RUNS, RESULTS = HERE / "runs" / "locomotion", HERE / "results" / "locomotion_datasets.csv"
ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
COLUMNS = [
    *("dataset", "env", "transitions", "episodes", "return_mean", "return_std", "return_best"),
    *("medium_steps", "medium_return", "expert_steps", "expert_return", "sha256"),
]
SEED, CHECKPOINT_EVERY, EPISODES, DATASET_STEPS, REPLAY_STEPS = 0, 5_000, 10, 100_000, 30_000


class Checkpoints(BaseCallback):
    """Saves the agent and its replay buffer at regular intervals, and notes its greedy return."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        if self.num_timesteps % CHECKPOINT_EVERY:
            return True
        returns, _ = evaluate_policy(self.model, make_vec_env(self.folder.name, seed=1_000), EPISODES)
        self.model.save(self.folder / str(self.num_timesteps))
        with atomic_write(self.folder / "buffer.pkl") as file:
            self.model.save_replay_buffer(file)  # type: ignore[attr-defined]
        # The row comes last: a checkpoint that has one is complete.
        with open(self.folder / "returns.csv", "a", newline="") as file:
            csv.writer(file).writerow([self.num_timesteps, f"{returns:.1f}"])
        return True


def returns_of(folder: Path) -> dict[int, float]:
    """:return: The greedy return of each checkpoint."""
    path = folder / "returns.csv"
    return {int(steps): float(mean) for steps, mean in csv.reader(path.open())} if path.exists() else {}


def train(env_id: str, n_steps: int) -> None:
    """Train the agent, from its last checkpoint on."""
    folder = RUNS / env_id
    folder.mkdir(parents=True, exist_ok=True)
    env, done = make_vec_env(env_id, seed=SEED), max(returns_of(folder), default=0)
    if done:
        model = CrossQ.load(folder / str(done), env, learning_starts=0)
        model.load_replay_buffer(folder / "buffer.pkl")
    else:
        # CrossQ's own critics of 1024 units take three times as long on a CPU.
        model = CrossQ("MlpPolicy", env, seed=SEED, buffer_size=1_000_000, policy_kwargs={"net_arch": [256, 256]})
    if done < n_steps:
        model.learn(n_steps - done, Checkpoints(folder), reset_num_timesteps=not done)


def play(env_id: str, steps: int, seed: int, n_steps: int) -> OfflineDataset:
    """:return: What a checkpoint does, acting stochastically."""
    set_random_seed(seed)
    agent = CrossQ.load(RUNS / env_id / str(steps))
    env = make_vec_env(env_id, n_envs=10, seed=seed)
    return collect_dataset(env, lambda s: agent.predict(s, deterministic=False)[0], n_steps, env_id)


def make(env_id: str) -> None:
    """Write the three datasets of an environment, and a row for each."""
    returns = returns_of(RUNS / env_id)
    expert = max(returns, key=lambda steps: returns[steps])
    medium = min(returns, key=lambda steps: abs(returns[steps] - returns[expert] / 2))
    replay = CrossQ.load(RUNS / env_id / str(medium), make_vec_env(env_id))
    replay.load_replay_buffer(RUNS / env_id / "buffer.pkl")
    half = DATASET_STEPS // 2
    played = play(env_id, medium, 1, DATASET_STEPS)
    datasets = {
        "medium": played,
        "medium-replay": load_dataset(replay.replay_buffer)[: max(medium, REPLAY_STEPS)],
        "medium-expert": played[:half].concatenate(play(env_id, expert, 2, half)),
    }
    for name, dataset in datasets.items():
        path = RUNS / f"{env_id.removesuffix('-v5').lower()}-{name}.npz"
        save_dataset(dataset, path)
        own = dataset.episode_returns()
        measured = [len(dataset), len(own), *np.round([own.mean(), own.std(), own.max()], 1)]
        agents = [medium, returns[medium], expert, returns[expert]]
        write_row([path.stem, env_id, *measured, *agents, hashlib.sha256(path.read_bytes()).hexdigest()])


def write_row(row: list[object]) -> None:
    """Write a dataset's row, which replaces an earlier one."""
    table = list(csv.reader(RESULTS.open())) if RESULTS.exists() else [COLUMNS]
    table = [table[0], *sorted([*(old for old in table[1:] if old[0] != row[0]), list(map(str, row))])]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    with atomic_write(RESULTS) as file:
        file.write(text.getvalue().encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", default=ENVS, metavar="ENV", help=f"by default {' '.join(ENVS)}")
    parser.add_argument("--steps", type=int, default=100_000, help="training steps of each agent")
    args = parser.parse_args()
    th.set_num_threads(1)
    for env_id in args.envs:
        train(env_id, args.steps)
        make(env_id)


if __name__ == "__main__":
    main()
