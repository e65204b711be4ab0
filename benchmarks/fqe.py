"""
Does FQE agree with d3rlpy's on the same policy and data? ``python benchmarks/fqe.py --d3rlpy PYTHON`` writes
``results/fqe_values.csv``: the mean value of the initial states of the bundled dataset under a cloned policy of d3rlpy's, by
both, with the same networks and settings, and the policy's true discounted return in the environment.

PYTHON is that of a virtual environment with d3rlpy 2.8.1 (``make benchmark`` makes it).
"""

import argparse
import csv
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import FQE, OfflineDataset, load_dataset

HERE = Path(__file__).parent
GAMMA = 0.98


class TorchScriptPolicy:
    """A policy that d3rlpy has written, whose actions are in [-1, 1]."""

    def __init__(self, path: Path, observation_space: spaces.Space, action_space: spaces.Box) -> None:
        self.module = th.jit.load(str(path))
        self.observation_space, self.action_space = observation_space, action_space

    def predict(self, observations: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        with th.no_grad():
            return self.module(th.as_tensor(observations)).numpy() * self.action_space.high, None


def true_return(policy: Any, n_episodes: int = 100) -> float:
    """:return: The mean discounted return from Pendulum-v1's own starts."""
    env = make_vec_env("Pendulum-v1", n_episodes, seed=1_000)
    obs, total = env.reset(), np.zeros(n_episodes)
    for step in range(200):
        obs, rewards, _, _ = env.step(policy.predict(obs)[0])
        total += GAMMA**step * rewards
    return float(total.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", required=True, help="the Python of a virtual environment with d3rlpy 2.8.1")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    args = parser.parse_args()
    th.set_num_threads(1)
    data = load_dataset("bundled:pendulum-mixed-v0")
    assert isinstance(data, OfflineDataset) and isinstance(data.action_space, spaces.Box)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file, policy_file = Path(folder, "data.npz"), Path(folder, "policy.pt")
        names = ("observations", "rewards", "terminations", "truncations")
        np.savez(file, actions=data.actions / data.action_space.high, **{name: getattr(data, name) for name in names})
        script = str(HERE / "references" / "d3rlpy_fqe.py")
        command = [args.d3rlpy, script, str(file), str(policy_file), str(args.steps), *args.seeds]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        rows += [{"by": "d3rlpy 2.8.1", **json.loads(line)} for line in lines]
        policy = TorchScriptPolicy(policy_file, data.observation_space, data.action_space)
        for seed in map(int, args.seeds):
            same: dict[str, Any] = {"learning_rate": 3e-4, "gamma": GAMMA, "target_update_interval": 10}
            fqe = FQE(policy, data, seed=seed, device="cpu", normalize_observations=False, **same)
            rows.append({"by": "FQE", "seed": seed, "value": fqe.learn(args.steps, log_interval=None).value().mean})
        rows.append({"by": "the environment (other starts)", "seed": "", "value": true_return(policy)})
    with open(HERE / "results" / "fqe_values.csv", "w", newline="") as out:
        writer = csv.DictWriter(out, ["by", "seed", "steps", "value"])
        writer.writeheader()
        writer.writerows({**row, "steps": args.steps, "value": f"{row['value']:.2f}"} for row in rows)
    print((HERE / "results" / "fqe_values.csv").read_text())


if __name__ == "__main__":
    main()
