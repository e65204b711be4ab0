"""``python_versions.sh`` runs it: each algorithm trains, saves, loads and predicts, each format is read."""

import importlib.util
import os
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_pg_extras import load_dataset, save_dataset
from sb3_pg_extras.zoo import ALGORITHMS

ONLINE = ("reinforce", "single_step_a2c")
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
folder = Path(tempfile.mkdtemp())
os.environ["MINARI_DATASETS_PATH"] = str(folder)
os.chdir(folder)
observation = gym.make("Pendulum-v1").reset(seed=0)[0]

for name, algorithm in ALGORITHMS.items():
    kwargs = {"n_episodes": 1} if name == "reinforce" else {} if name in ONLINE else {"batch_size": 32}
    model = algorithm("MlpPolicy", "Pendulum-v1", seed=0, **kwargs).learn(400 if name in ONLINE else 20)
    model.save(name)
    action, loaded = (one.predict(observation, deterministic=True)[0] for one in (model, algorithm.load(name)))
    assert np.isfinite(action).all() and np.allclose(action, loaded), (name, action, loaded)
print("trained:", *ALGORITHMS)

data = load_dataset("bundled:pendulum-mixed-v0")
sources = ["data.npz"]
save_dataset(data, "data.npz")
if importlib.util.find_spec("minari"):
    sources.append("minari:smoke/data-v0")
    save_dataset(data, sources[-1])
if importlib.util.find_spec("h5py"):
    import h5py

    sources.append("data.hdf5")
    with h5py.File("data.hdf5", "w") as file:
        for ours, theirs in zip(FIELDS, (*FIELDS[:3], "terminals", "timeouts"), strict=True):
            file[theirs] = getattr(data, ours)
if importlib.util.find_spec("pyarrow"):
    import pandas as pd

    sources.append("data.parquet")
    ends = data.terminations | data.truncations
    columns = {
        "observation.state": list(data.observations),
        "action": list(data.actions),
        "next.reward": data.rewards,
        "next.done": data.terminations,
        "episode_index": np.cumsum(ends) - ends,
        "frame_index": np.arange(len(ends)),
    }
    pd.DataFrame(columns).to_parquet("data.parquet")
for source in sources:
    assert len(load_dataset(source, data.action_space, verbose=0).rewards) > 0, source
print("read:", *sources)
