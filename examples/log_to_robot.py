"""
From a robot's log to a policy in one file, without an environment: ``python examples/log_to_robot.py``, under five minutes.

The log is a CSV file, here written from the dataset that comes with the package. It is looked at, split and learnt from, the
policies are evaluated on the held-out part, the better one is exported, and a loop that needs NumPy and onnxruntime runs it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch as th
from gymnasium import spaces

from sb3_pg_extras import BC, BEAR, FQE, OfflineDataset, load_dataset

SENSORS, MOTORS = ["cosine", "sine", "speed"], ["torque"]
TORQUE = spaces.Box(-2.0, 2.0, (1,), np.float32)
SMALL = {"net_arch": [64, 64]}


def write_log(path: Path) -> None:
    """What a robot would have written: one step per row."""
    data = load_dataset("bundled:pendulum-mixed-v0")
    log = pd.DataFrame(data.observations, columns=SENSORS)
    log[MOTORS] = data.actions
    log["reward"] = data.rewards
    log["run"] = np.repeat(np.arange(data.n_episodes), data.episode_lengths())
    log["fell"] = data.terminations
    log.to_csv(path, index=False)


def read_log(path: Path) -> OfflineDataset:
    """:return: The log as transitions."""
    columns = {"observations": SENSORS, "actions": MOTORS, "rewards": "reward", "episode": "run", "terminations": "fell"}
    return load_dataset(path, TORQUE, columns=columns)


def robot_loop(path: Path, observations: np.ndarray) -> np.ndarray:
    """What runs on the robot; it imports neither torch nor this package."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return np.array([session.run(["action"], {"observation": observation[None]})[0][0] for observation in observations])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("log_to_robot"))
    parser.add_argument("--steps", type=int, default=3_000, help="gradient steps of each policy, and of each evaluation")
    args = parser.parse_args()
    th.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    write_log(args.folder / "log.csv")

    log = read_log(args.folder / "log.csv")
    print(log.summary(), end="\n\n")
    log.plot(args.folder / "log.png", "the log")
    train, held_out = log.split(0.8, seed=0)

    models = {
        "BC": BC("MlpPolicy", None, train, policy_kwargs=SMALL, seed=0),
        "BEAR": BEAR(
            "MlpPolicy", None, train, learning_rate=1e-3, critic_learning_rate=1e-3, gamma=0.98, mmd_estimator="unbiased",
            mmd_threshold=0.1, n_steps=1, policy_kwargs=SMALL | {"vae_net_arch": [64, 64]}, seed=0,
        ),
    }  # fmt: skip
    values = {}
    for name, model in models.items():
        model.learn(args.steps, log_interval=None, progress_bar=True)
        value = FQE(model, held_out, policy_kwargs=SMALL, gamma=0.98, seed=0).learn(args.steps, log_interval=None).value()
        print(f"{name}: worth {value.mean:.1f} ({value.low:.1f} to {value.high:.1f}) from the held-out runs' first states")
        values[name] = value.mean

    best = max(values, key=lambda name: values[name])
    policy = args.folder / "policy.onnx"
    models[best].export_onnx(policy)
    observations = held_out.observations[:100]
    assert isinstance(observations, np.ndarray)
    actions = robot_loop(policy, observations)
    expected, _ = models[best].predict(observations, deterministic=True)
    print(
        f"{best} is in {policy}: {len(actions)} actions of the robot's loop differ by {np.abs(actions - expected).max():.1e}"
    )


if __name__ == "__main__":
    main()
