"""``inspect``, as a user types it."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import make_arrays
from warm_python import this_environment

from sb3_pg_extras.zoo.inspect import dataset_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("bundled:pendulum-mixed-v0", "pendulum-mixed-v0"),
        ("minari:hopper/medium-v0", "hopper-medium-v0"),
        ("data/hopper-medium-v2.hdf5", "hopper-medium-v2"),
    ],
)
def test_names_of_pictures(source, name, tmp_path):
    assert dataset_name(source) == name
    (tmp_path / "lerobot.v2").mkdir()
    assert dataset_name(f"{tmp_path}/lerobot.v2/") == "lerobot.v2"


def inspect(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return this_environment().run("sb3_pg_extras.zoo", "inspect", *arguments, folder=folder)


def test_the_bundled_dataset_is_inspected(tmp_path):
    result = inspect(tmp_path, "bundled:pendulum-mixed-v0")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert ["episodes", "150"] in [line.split() for line in lines]
    assert any(line.split()[:3] == ["return", "-1093", "432.6"] for line in lines)
    assert any(line.startswith("normalized score") for line in lines)
    assert lines[-1] == "Picture: pendulum-mixed-v0.png"
    assert os.listdir(tmp_path) == ["pendulum-mixed-v0.png"]
    # What docs/datasets.md shows is this table.
    assert "\n".join(lines[:-1]) in (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()


def test_env_gives_the_action_space_and_the_references(tmp_path):
    arrays = make_arrays(20)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name in ("observations", "rewards", "next_observations"):
            file[name] = arrays[name]
        file["actions"] = np.full((20, 1), 1.5, np.float32)
        file["terminals"] = arrays["terminations"]
    result = inspect(tmp_path, "x.hdf5", "--no-plot")
    assert result.returncode == 1
    assert "[-1, 1]" in result.stderr
    assert "--env" in result.stderr
    result = inspect(tmp_path, "x.hdf5", "--env", "Pendulum-v1", "--no-plot")
    assert result.returncode == 0, result.stderr
    assert "Box(-2.0, 2.0, (1,), float32)" in result.stdout
    assert "Pendulum-v1" in result.stdout
    assert os.listdir(tmp_path) == ["x.hdf5"]


def test_data_that_cannot_be_used_ends_in_one_line(tmp_path):
    arrays = {name: value for name, value in make_arrays(20).items() if isinstance(value, np.ndarray)}
    arrays["rewards"][7], arrays["actions"] = np.nan, arrays["actions"][:, :1] / 2
    np.savez(tmp_path / "x.npz", **arrays)
    result = inspect(tmp_path, "x.npz", "--env", "Pendulum-v1")
    assert result.returncode == 1
    assert result.stderr.startswith("sb3-pg-extras inspect: error: x.npz: rewards row 7 is not finite: nan")
    assert (len(result.stderr.splitlines()), result.stdout) == (1, "")
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--env", "Nothing-v0"], "argument --env: 'Nothing-v0'"), (["-o", "x.jpg"], "argument -o/--output: x.jpg")],
)
def test_wrong_arguments_are_named(tmp_path, arguments, words):
    result = inspect(tmp_path, "bundled:pendulum-mixed-v0", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert os.listdir(tmp_path) == []
