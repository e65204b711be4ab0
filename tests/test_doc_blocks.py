"""Every Python block of README and docs is run: with few gradient steps here, as it is typed among the slow tests."""

import contextlib
import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest
from stable_baselines3 import SAC
from test_docs import BLOCK, PAGES

from sb3_pg_extras import BC, load_dataset, save_dataset

BUNDLED = "bundled:pendulum-mixed-v0"
LEARN = re.compile(r"(?<=\.learn\()(\s*)([\d_]+|(?=\)))")


class Stop(Exception):
    """Ends the robot's endless loop."""


def bear() -> dict:
    data = load_dataset(BUNDLED)
    save_dataset(data, "robot.npz")
    sac = SAC("MlpPolicy", "Pendulum-v1", buffer_size=300, learning_starts=200).learn(200)
    sac.save_replay_buffer("logs/sac/.../replay_buffer.pkl")
    return {"env": gym.make("Pendulum-v1")}


def datasets() -> dict:
    data = load_dataset(BUNDLED)
    flags = {"terminated": data.terminations, "truncated": data.truncations}
    arrays = {"s": data.observations, "a": data.actions, "r": data.rewards, "s2": data.next_observations}
    return {**arrays, **flags, "env": gym.make("Pendulum-v1")}


def export() -> dict:
    return {"model": BC("MlpPolicy", None, BUNDLED), "sac": SAC("MlpPolicy", "Pendulum-v1")}


def robot() -> dict:
    from examples.log_to_robot import write_log

    write_log(Path("log.csv"))
    observations, actions = iter(load_dataset(BUNDLED).observations[:3]), []

    def observe():
        observation = next(observations, None)
        if observation is None:
            assert [action.shape for action in actions] == [(1,)] * 3
            raise Stop
        return observation

    return {"robot": SimpleNamespace(observe=observe, act=actions.append)}


# What a page's reader has before its first block.
BEFORE = {
    "bear.md": bear,
    "datasets.md": datasets,
    "export.md": export,
    "robot.md": robot,
    "README.md": robot,
    "single_step_a2c.md": lambda: {"env": gym.make("CartPole-v1")},
}
BLOCKS = {page: [block for language, block in BLOCK.findall(page.read_text()) if language == "python"] for page in PAGES}


def test_blocks_are_found():
    assert sum(map(len, BLOCKS.values())) >= 25


@pytest.mark.parametrize("as_typed", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks], ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore")
def test_blocks_run(page, as_typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    namespace = BEFORE.get(page.name, dict)()
    for block in BLOCKS[page]:
        code = block if as_typed else LEARN.sub(r"\g<1>20", block)
        if find_spec("mujoco") is None:
            code = code.replace("Hopper-v5", "Pendulum-v1")
        with contextlib.suppress(Stop):
            exec(compile(code, page.name, "exec"), namespace)
