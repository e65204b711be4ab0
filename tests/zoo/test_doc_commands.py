"""
Every command in a block of README and docs is run, one after the other in an empty folder: with few steps here; those of the
README as they are typed among the slow tests. test_zoo_commands.py runs those of docs/zoo.md that name $ALGO.
"""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from test_docs import PAGES, commands
from warm_python import TIMEOUT, this_environment

from sb3_pg_extras import OfflineDataset, save_dataset

HOPPER = "Hopper-v5" if find_spec("mujoco") else "MountainCarContinuous-v0"
# What a reader of a page has typed before.
BEFORE = {
    "datasets.md": [
        "sb3-pg-extras train --algo sac --env Hopper-v5",
        "sb3-pg-extras train --algo ppo_lstm --env CartPoleNoVel-v1 --save-freq 200",
    ]
}
# What is not run here, and why.
ELSEWHERE = {
    r"python3 -m venv |\. \.venv|pip install |make ": "make demo and make test do this themselves",
    r"python benchmarks/|git clone ": "hours; tests/benchmarks reads the suites and runs small ones",
    r"python examples/": "tests/test_examples.py",
    r"jupyter |tensorboard ": "a server, of another project",
    r".*\$ALGO|sb3-pg-extras (plot_from_file|benchmark) ": "test_zoo_commands.py, for every algorithm",
    r"docker ": "Docker's engine; tests/test_house.py reads the Dockerfile",
    r".*postgresql://|.*--address": "tests/zoo/test_distributed.py, with a server",
}
# Fewer steps.
SMALLER = {
    r"(?<= -n )\d+|(?<=--n-timesteps )\d+|(?<=--load-checkpoint )\d+|(?<=-freq )\d+": "200",
    r"(?<=--n-trials )\d+": "1",
    r"--seeds [\d ]+": "--seeds 0 --n-timesteps 200",
    r"-optimize": "-optimize --n-evaluations 1 --n-startup-trials 1 --no-optim-plots",
    r" enjoy (.*)": r" enjoy \1 --no-render -n 200",
    r" train ((?!.* -n ).*)": r" train \1 -n 200",
    r" train (.*)": r" train \1 --eval-episodes 1",
    r" (train|evaluate) ((?!.*--env).*)": r" \1 \2 --fqe-steps 20",
}


def lines_of(page: Path) -> list[str]:
    lines = "\n".join(commands(page)).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines if re.match(r"(sb3-pg-extras|\.|[a-z0-9]+) [^ ]", line)]


def is_run(line: str) -> bool:
    return not any(re.match(pattern, line) for pattern in ELSEWHERE)


LINES = {page: lines for page in PAGES if (lines := lines_of(page))}


def test_each_command_is_run_or_has_a_reason():
    typed = [line for lines in LINES.values() for line in lines]
    run = list(filter(is_run, typed))
    print(f"{len(run)} commands are run, {len(typed) - len(run)} elsewhere")
    assert len(run) > 25
    assert all(line.startswith("sb3-pg-extras ") for line in run)


def random_data(env: gym.Env, n: int = 400) -> OfflineDataset:
    for space in (env.observation_space, env.action_space):
        space.seed(0)
    ends = np.arange(1, n + 1) % 50 == 0
    return OfflineDataset(
        observations=np.array([env.observation_space.sample() for _ in range(n)]),
        actions=np.array([env.action_space.sample() for _ in range(n)]),
        rewards=np.ones(n),
        next_observations=np.array([env.observation_space.sample() for _ in range(n)]),
        terminations=np.zeros(n, bool),
        truncations=ends,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def write_files() -> None:
    """What a reader has: a robot's log and D4RL's file."""
    data = random_data(gym.make(HOPPER))
    save_dataset(data, "robot.npz")
    with h5py.File("hopper_medium-v2.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards", "next_observations"):
            file[name] = getattr(data, name)
        file["terminals"], file["timeouts"] = data.terminations, data.truncations


@pytest.mark.parametrize(
    ("page", "as_typed"),
    [
        # The other pages' take minutes, and with all their steps days.
        pytest.param(
            page,
            as_typed,
            id=page.name + " as typed" * as_typed,
            marks=[pytest.mark.slow] if as_typed or page.name != "README.md" else [],
        )
        for page, lines in LINES.items()
        for as_typed in (False, True)
        if any(map(is_run, lines)) and (page.name == "README.md" or not as_typed)
    ],
)
def test_commands_run(page, as_typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files()
    for line in BEFORE.get(page.name, []) + list(filter(is_run, LINES[page])):
        command = line
        if not as_typed:
            for pattern, smaller in SMALLER.items():
                command = re.sub(pattern, smaller, command)
        _, *words = shlex.split(command.replace("Hopper-v5", HOPPER))
        timeout = 4 * 3600 if as_typed else TIMEOUT
        result = this_environment().run("sb3_pg_extras.zoo", *words, folder=tmp_path, timeout=timeout)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
