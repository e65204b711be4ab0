"""The scripts and notebooks of examples/ run: reduced here, as they are among the slow tests."""

import json
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
# Arguments of the reduced form, and what is left behind.
SCRIPTS = {
    "bear_from_replay_buffer": (
        ["--sac-steps", "220", "--steps", "20", "--online-steps", "5", "--episodes", "5"],
        "logs/sac/Pendulum-v1_1/replay_buffer.pkl",
    ),
    "log_to_robot": (["--steps", "20"], "policy.onnx"),
    "one_step_actor_critic": (["--steps", "300"], "learning_curve.png"),
}
# Parameters of the reduced form, and what holds at the end.
NOTEBOOKS = {
    "bear_from_replay_buffer": (
        {"SAC_STEPS": 220, "STEPS": 20, "ONLINE_STEPS": 5, "EVALUATIONS": 1, "EPISODES": 2},
        lambda names: len(names["data"]) == 220 and names["bear"].num_timesteps == 20 and names["tuned"].num_timesteps == 5,
    ),
    "log_to_robot": (
        {"STEPS": 20},
        lambda names: (
            np.abs(names["actions"] - names["expected"]).max() < 1e-5 and names["models"]["BEAR"].num_timesteps == 20
        ),
    ),
    "one_step_actor_critic": (
        {"SCRATCH_STEPS": 200, "STEPS": 300},
        lambda names: names["trapped"] == 0 and names["detached"] == pytest.approx(names["formula"].item()),
    ),
}


def read(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text())


@pytest.mark.parametrize("as_it_is", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore")
def test_scripts_run(name, as_it_is, tmp_path, monkeypatch):
    arguments, left = SCRIPTS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *([] if as_it_is else arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert (tmp_path / name / left).stat().st_size > 0


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore")
def test_notebooks_run_reduced(name, monkeypatch):
    """In this process: a kernel takes longer to start than the cells to run."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    parameters, holds = NOTEBOOKS[name]
    names: dict = {}
    for cell in read(name)["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert parameters.keys() <= names.keys()
            names.update(parameters)
    assert holds(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_in_a_kernel(name, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_keep_clean_outputs(name):
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 300_000
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    for output in outputs:
        assert output["output_type"] != "error" and output.get("name") != "stderr"
        output.get("data", {}).pop("image/png", None)
        text = json.dumps(output)
        assert not [place for place in (str(Path.home()), tempfile.gettempdir(), "site-packages") if place in text]
