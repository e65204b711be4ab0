"""
Every command of the RL Zoo with our algorithms, as docs/zoo.md says to type it, from an installed wheel in an empty folder;
and the workarounds for what is broken upstream.
"""

import argparse
import importlib
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import huggingface_sb3
import numpy as np
import optuna
import pytest
import requests
import rl_zoo3
import torch as th
from huggingface_hub.errors import RemoteEntryNotFoundError
from matplotlib import pyplot as plt
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.utils import set_random_seed
from warm_python import WarmPython

import sb3_pg_extras
from sb3_pg_extras import BEAR, load_dataset, save_dataset
from sb3_pg_extras.datasets import DatasetError
from sb3_pg_extras.datasets.load import FILE_LOADERS
from sb3_pg_extras.zoo import ALGORITHMS, ZOO_COMMANDS, UsageError, hyperparams_file, register, upstream
from sb3_pg_extras.zoo.manager import Manager
from sb3_pg_extras.zoo.search_spaces import CONVERTERS, SAMPLERS

TESTS, ROOT = Path(__file__).parent, Path(__file__).parents[2]
# All columns take minutes: one stands for them in the quick tests. test_zoo.py trains with others.
OFFLINE = ("bc", "bcq", "bear", "td3_bc")
ENV_IDS = {algo: "Pendulum-v1" if algo in OFFLINE else "CartPole-v1" for algo in ALGORITHMS}
COLUMNS = [pytest.param(algo, marks=[] if algo == "reinforce" else pytest.mark.slow) for algo in ALGORITHMS]


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """The folder of a wheel and of a source distribution, built as a release would."""
    folder = tmp_path_factory.mktemp("release")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="session")
def installed(release) -> Path:
    """The folder of the wheel, unpacked."""
    (wheel,) = release.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(release / "installed")
    return release / "installed"


def test_wheel_and_sdist_hold_everything(release):
    (wheel,), (sdist,) = release.glob("*.whl"), release.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    bundled = ("datasets/bundled/pendulum-mixed-v0.npz", "datasets/bundled/pendulum-mixed-v0.md")
    for name in ("hyperparams/bear.yml", "zoo/grid.py", "py.typed", *bundled):
        assert f"sb3_pg_extras/{name}" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    with tarfile.open(sdist) as archive:
        sdist_names = archive.getnames()
    for name in ("hyperparams/bear.yml", "tests/zoo/test_zoo.py", "LICENSE", "Makefile"):
        assert any(member.endswith(f"/{name}") for member in sdist_names), name


@cache
def warm_python(installed: Path) -> WarmPython:
    """There is neither an ffmpeg nor a Python on the PATH, and no network."""
    env = {"PYTHONPATH": str(installed), "PATH": "/nowhere", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    kept = {name: os.environ[name] for name in ("HOME", "SDL_VIDEODRIVER", "LD_LIBRARY_PATH") if name in os.environ}
    return WarmPython(kept | env)


def run(folder: Path, installed: Path, command: str) -> subprocess.CompletedProcess:
    """Run a line as typed in ``folder``."""
    words, env = shlex.split(command), {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    assert words.pop(0) == "sb3-pg-extras"
    program = [str(TESTS / "fake_hub.py"), "hub"] if words[0].endswith("_hub") else ["sb3_pg_extras.zoo"]
    return warm_python(installed).run(*program, *words, folder=folder, **env)


def commands(algo: str) -> dict[str, str]:
    """The lines of docs/zoo.md for an algorithm, by their command."""
    page = (ROOT / "docs" / "zoo.md").read_text()
    (block,) = re.findall(r"^ALGO=.*\n((?:.+\n)+?)```", page, re.MULTILINE)
    block = block.replace("$ALGO", algo).replace("$ENV", ENV_IDS[algo])
    named = {
        re.search(r"sb3-pg-extras (\w+)", line)[1] + " -optimize" * ("-optimize" in line): line
        for line in block.splitlines()
    }
    assert set(named) == {*ZOO_COMMANDS, "train -optimize"}
    return named


class Column:
    """The commands of one algorithm in one folder, each run once and after what it needs."""

    needs = dict.fromkeys(ZOO_COMMANDS, "train") | {"plot_from_file": "all_plots", "load_from_hub": "push_to_hub"}

    def __init__(self, algo: str, folder: Path, installed: Path) -> None:
        self.algo, self.env_id, self.folder, self.installed = algo, ENV_IDS[algo], folder, installed
        self.results: dict[str, subprocess.CompletedProcess] = {}

    def run(self, row: str) -> subprocess.CompletedProcess:
        if row not in self.results:
            if row not in ("train", "train -optimize"):
                self.run(self.needs[row])
            self.results[row] = run(self.folder, self.installed, commands(self.algo)[row])
        result = self.results[row]
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result

    def size(self, path: str) -> int:
        return (self.folder / path).stat().st_size


@pytest.fixture(scope="module")
def columns(tmp_path_factory, installed) -> dict[str, Column]:
    return {algo: Column(algo, tmp_path_factory.mktemp(algo), installed) for algo in ENV_IDS}


@pytest.fixture(params=COLUMNS)
def column(request, columns) -> Column:
    return columns[request.param]


def test_train(column):
    assert f"Loading hyperparameters from: {column.installed}" in column.run("train").stdout
    run_folder = column.folder / "logs" / column.algo / f"{column.env_id}_1"
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {f"{column.env_id}.zip", "best_model.zip", "evaluations.npz"}
    assert any(name.startswith("rl_model_") for name in names)


def test_enjoy(column):
    assert "Mean reward:" in column.run("enjoy").stdout


def test_record_video(column):
    column.run("record_video")
    assert list((column.folder / "logs").rglob("final-model-*-step-0-to-step-100.mp4"))


def test_record_training(column):
    column.run("record_training")
    for name in ("training.mp4", "training.gif"):
        assert column.size(f"logs/{column.algo}/{column.env_id}_1/videos/{name}") > 10_000


def test_plot_train(column):
    if column.algo in OFFLINE:  # no training episodes
        assert "Training Episodic Reward: nothing to draw, nothing saved" in column.run("plot_train").stdout
        assert not (column.folder / "Training-Episodic-Reward.png").exists()
    else:
        assert "No display to show it on: saved Training-Episodic-Reward.png" in column.run("plot_train").stdout
        assert column.size("Training-Episodic-Reward.png") > 5000


def test_all_plots(column):
    assert "saved Results-" in column.run("all_plots").stdout
    assert column.size(f"Results-{column.env_id}.png") > 5000
    evaluations = np.load(column.folder / "logs" / column.algo / f"{column.env_id}_1" / "evaluations.npz")
    plotted = pickle.loads((column.folder / "results.pkl").read_bytes())[column.env_id][f"{column.algo.upper()}-logs"]
    np.testing.assert_allclose(plotted["mean"], evaluations["results"].mean(axis=1))


def test_plot_from_file(column):
    printed = column.run("plot_from_file").stdout
    for name in (f"Results-{column.env_id}-2.png", "Sensitivity-plot.png"):
        assert f"saved {name}" in printed
        assert column.size(name) > 5000


def test_benchmark(column):
    column.run("train")
    # A run without a model, which a failed training leaves.
    failed = column.folder / "logs" / column.algo / f"{column.env_id}_2"
    failed.mkdir()
    column.run("benchmark")
    failed.rmdir()
    rows = re.findall(r"\|\s*(\w+)\s*\|\s*([\w-]+)\s*\|", (column.folder / "benchmark.md").read_text())
    assert (column.algo, column.env_id) in rows


def test_hub(column):
    column.run("load_from_hub")
    repository = column.folder / "hub" / "me" / f"{column.algo}-{column.env_id}"
    assert f"name: {ALGORITHMS[column.algo].__name__}" in (repository / "README.md").read_text()
    assert (repository / "replay.mp4").stat().st_size > 1000
    pushed, loaded = (
        ALGORITHMS[column.algo].load(column.folder / folder / column.algo / f"{column.env_id}_1" / f"{column.env_id}.zip")
        for folder in ("logs", "downloads")
    )
    for before, after in zip(pushed.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(before, after)


def test_optimize_leaves_a_report_and_no_run(column):
    assert "Number of finished trials:  2" in column.run("train -optimize").stdout
    assert f"Saved logs/{column.algo}/optimization_history" in column.run("train -optimize").stdout
    column.run("train")
    for name in ("optimization_history", "param_importances"):
        saved = f"logs/{column.algo}/{name}_{column.env_id}.png"
        printed = column.run("train -optimize").stdout
        assert (column.folder / saved).exists() if f"Saved {saved}" in printed else f"No picture {name}: " in printed
    suffixes = sorted(path.suffix for path in (column.folder / "logs" / column.algo).iterdir() if "report" in path.name)
    assert suffixes == [".csv", ".pkl"]
    # enjoy takes the run with the highest number.
    runs = [path.name for path in (column.folder / "logs" / column.algo).iterdir() if path.is_dir()]
    assert runs == [f"{column.env_id}_1"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ENV_IDS)
def test_several_environments_in_processes_of_their_own(algo, tmp_path, installed):
    env = ENV_IDS[algo]
    command = f"sb3-pg-extras train --algo {algo} --env {env} -n 300 --vec-env subproc --n-eval-envs 2 --eval-freq 150"
    result = run(tmp_path, installed, f"{command} --eval-episodes 2 -params n_envs:2")
    assert result.returncode == 0, result.stderr
    (evaluations,) = tmp_path.rglob("evaluations.npz")
    assert np.load(evaluations)["results"].shape[1] == 2


REFUSE = """
import runpy, sys
import gymnasium
def refuse(*_, **__):
    raise AssertionError("an environment was made")
gymnasium.make = gymnasium.make_vec = gymnasium.envs.registration.make = gymnasium.envs.registration.EnvSpec.make = refuse
program = sys.argv.pop(1)
(runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
"""


def test_from_a_log_to_a_robot_nothing_makes_an_environment(tmp_path, installed):
    (tmp_path / "refuse.py").write_text(REFUSE)
    shutil.copy(ROOT / "examples" / "log_to_robot.py", tmp_path)
    save_dataset(load_dataset("bundled:pendulum-mixed-v0")[:1000], tmp_path / "robot.npz")
    run_of = "--algo bear --dataset robot.npz"
    for command in (
        "log_to_robot.py --steps 20",
        "sb3_pg_extras.zoo inspect robot.npz",
        f"sb3_pg_extras.zoo train {run_of} -n 20 --eval-freq 10 --fqe-steps 5 --save-freq 10",
        f"sb3_pg_extras.zoo evaluate {run_of} --checkpoints --fqe-steps 5",
        f"sb3_pg_extras.zoo train {run_of} -n 20 -optimize --n-trials 1 --fqe-steps 5 --no-optim-plots",
        f"sb3_pg_extras.zoo export {run_of} -o policy.onnx",
    ):
        result = warm_python(installed).run(str(tmp_path / "refuse.py"), *shlex.split(command), folder=tmp_path)
        assert result.returncode == 0, command + result.stdout + result.stderr
    for policy in ("policy.onnx", "log_to_robot/policy.onnx"):
        assert (tmp_path / policy).stat().st_size > 1000
    (tmp_path / "make.py").write_text("import gymnasium; gymnasium.make('Pendulum-v1')")
    result = warm_python(installed).run(str(tmp_path / "refuse.py"), "make.py", folder=tmp_path)
    assert "an environment was made" in result.stderr


def test_track_without_wandb_gives_the_message_of_the_zoo(tmp_path, installed):
    (tmp_path / "wandb.py").write_text("raise ImportError")
    result = run(tmp_path, installed, "sb3-pg-extras train --algo bear --env Pendulum-v1 --track")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: if you want to use Weights & Biases")


CONTINUOUS = ("crossq", "ddpg", "sac", "td3", "tqc")
# The zoo's default for ppo_lstm names a policy that it does not have: this environment has an entry of its own.
ZOO_ENV_IDS = dict.fromkeys(CONTINUOUS, "Pendulum-v1") | {"ppo_lstm": "CartPoleNoVel-v1"}


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(rl_zoo3.ALGOS.keys() - ALGORITHMS.keys()))
def test_the_algorithms_of_the_zoo_run_as_before(algo, tmp_path, installed):
    env = ZOO_ENV_IDS.get(algo, "CartPole-v1")
    for command in (
        f"train -n 120 --eval-freq -1 --algo {algo} --env {env}",
        f"enjoy --algo {algo} --env {env} -f logs --no-render",
    ):
        result = run(tmp_path, installed, f"sb3-pg-extras {command}")
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_literal_zoo_commands_with_custom_envs(tmp_path, installed):
    (tmp_path / "custom_envs.py").write_text("import sb3_pg_extras.zoo\n\nsb3_pg_extras.zoo.register()\n")
    ours = ["--algo", "bear", "--env", "Pendulum-v1"]
    conf = str(installed / "sb3_pg_extras" / "hyperparams" / "bear.yml")
    for arguments in (
        ["train", *ours, "-n", "20", "--eval-freq", "-1", "-conf", conf, "-params", "warmup_fraction:0.25"],
        ["enjoy", *ours, "-f", "logs", "--no-render", "-n", "200"],
        ["record_video", *ours, "-f", "logs", "-n", "20"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", f"rl_zoo3.{arguments[0]}", *arguments[1:]],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr


# The search


@pytest.fixture
def manager(tmp_path):
    """-> the zoo's manager of a search over BEAR: 20 gradient steps per trial, evaluated after each 5."""
    register()
    set_random_seed(0)

    def make(**hyperparams) -> Manager:
        made = Manager(
            argparse.Namespace(), "bear", "Pendulum-v1", str(tmp_path), n_timesteps=20, n_eval_episodes=1, n_evaluations=4,
            optimize_hyperparameters=True, config=str(hyperparams_file("bear")), verbose=0,
            hyperparams={"warmup_fraction": 0.25, **hyperparams},
        )  # fmt: skip
        assert made.setup_experiment() is None
        return made

    return make


def test_what_is_drawn_for_bear_becomes_arguments():
    drawn = {"one_minus_gamma": 0.25, "net_arch": "small", "vae_net_arch": "big", "mmd_sigma": 5.0}
    networks = {"net_arch": [64, 64], "vae_net_arch": [750, 750]}
    assert CONVERTERS["bear"](drawn) == {"policy_kwargs": networks, "gamma": 0.75, "mmd_sigma": 5.0}
    assert drawn["net_arch"] == "small"


def test_an_evaluation_during_the_gradient_steps_prunes_a_trial(manager):
    # Prunes whatever is worse than no cost at all, at the second evaluation.
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(lower=0.0, n_warmup_steps=2), direction="maximize")
    study.optimize(manager().objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [1, 2]  # of four


def test_the_dataset_is_read_once_for_all_trials(manager, monkeypatch, tmp_path):
    bundled = Path(sb3_pg_extras.datasets.__file__).parent / "bundled" / "pendulum-mixed-v0.npz"
    shutil.copy(bundled, tmp_path / "mine.npz")
    loaded, load_npz = [], FILE_LOADERS[".npz"]

    def load(path: Path, action_space: object) -> sb3_pg_extras.OfflineDataset:
        loaded.append(path)
        return load_npz(path, action_space)

    monkeypatch.setitem(FILE_LOADERS, ".npz", load)
    study = optuna.create_study(direction="maximize")
    study.optimize(manager(dataset=str(tmp_path / "mine.npz")).objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.COMPLETE] * 2
    assert loaded == [tmp_path / "mine.npz"]


@pytest.mark.parametrize("when", ["making the model", "learning"])
def test_a_dataset_error_ends_the_search(manager, monkeypatch, when):
    hyperparams = {"dataset": "nowhere.npz"}
    if when == "learning":

        def fail(self: BEAR, *_: object, **__: object) -> None:
            raise DatasetError("rewards, row 3: nan")

        hyperparams = {}
        monkeypatch.setattr(BEAR, "learn", fail)
    study = optuna.create_study(direction="maximize")
    with pytest.raises(DatasetError):
        study.optimize(manager(**hyperparams).objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.FAIL]


def test_a_dataset_error_in_a_search_is_one_message(tmp_path, installed):
    command = "sb3-pg-extras train --algo bear --env Pendulum-v1 -n 20 -optimize --n-trials 3"
    result = run(tmp_path, installed, command + " -params dataset:\"'nowhere.npz'\"")
    assert result.returncode == 1
    assert result.stderr.endswith("sb3-pg-extras train: error: dataset='nowhere.npz': no such file\n")
    assert result.stderr.count("nowhere.npz") == 1
    assert "Traceback" not in result.stderr


# Workarounds. When an update of the zoo fixes one of the bugs below, delete its workaround.


@pytest.mark.parametrize("cls", [ExperimentManager, Manager])
def test_a_search_makes_no_run_folder(cls, tmp_path):
    arguments = {"optimize_hyperparameters": True, "config": str(hyperparams_file("reinforce")), "n_timesteps": 10}
    register()
    made = cls(argparse.Namespace(), "reinforce", "CartPole-v1", str(tmp_path), **arguments)
    assert made.setup_experiment() is None
    runs = [path.name for path in tmp_path.glob("reinforce/*")]
    assert runs == ([] if cls is Manager else ["CartPole-v1_1"])


@pytest.mark.parametrize("cls", [ExperimentManager, Manager])
def test_trial_0_is_loaded_and_the_command_line_comes_before_it(cls, tmp_path):
    register()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{tmp_path}/study.log"))
    study = optuna.create_study(storage=storage, study_name="study")
    SAMPLERS["reinforce"](study.ask(), 2, 1, {})
    arguments = {"storage": f"{tmp_path}/study.log", "study_name": "study", "trial_id": 0, "hyperparams": {"gamma": 0.5}}
    arguments |= {"config": str(hyperparams_file("reinforce"))}
    made = cls(argparse.Namespace(), "reinforce", "CartPole-v1", str(tmp_path), **arguments)
    hyperparams, _ = made.read_hyperparameters()
    loaded = hyperparams.get("learning_rate") == study.trials[0].params["learning_rate"]
    assert loaded == (cls is Manager)
    assert hyperparams["gamma"] == 0.5
    with pytest.raises(
        KeyError if cls is ExperimentManager else UsageError, match=r"no trial 1 of --study-name other|exist"
    ):
        made.load_trial(f"{tmp_path}/study.log", "other", 1)


def test_children_are_our_commands_in_this_python(monkeypatch, capfd):
    monkeypatch.setattr(subprocess, "call", subprocess.call)  # restored afterwards
    monkeypatch.setenv("PATH", "/nowhere")
    upstream.start_our_commands()
    for command in (["python", "-m", "rl_zoo3.record_video"], ["python", "enjoy.py"]):
        assert subprocess.call([*command, "--algo", "bear", "--help"]) == 0
        assert "single_step_a2c" in capfd.readouterr().out
    with pytest.raises(FileNotFoundError):
        subprocess.call(["python", "other.py"])


def all_plots(monkeypatch, folder: Path) -> dict[str, object]:
    """What ``all_plots`` of the zoo writes about the runs of BEAR in ``folder/logs``."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split("all_plots -a bear -e Env-v0 -f logs -o out --no-display"))
    importlib.import_module("rl_zoo3.plots.all_plots").all_plots()
    plt.close("all")
    return pickle.loads((folder / "out.pkl").read_bytes())["Env-v0"]["BEAR-logs"]


def evaluations(folder: Path, *last: list[float]) -> None:
    """A run for each of these last evaluations."""
    for number, returns in enumerate(last, start=1):
        run_folder = folder / "logs" / "bear" / f"Env-v0_{number}"
        run_folder.mkdir(parents=True)
        np.savez(run_folder / "evaluations.npz", timesteps=[10, 20], results=[[1.0] * len(returns), returns])


@pytest.fixture
def plots_module(monkeypatch):
    """-> the module whose NumPy the workaround replaces; it is given back."""
    module = importlib.import_module("rl_zoo3.plots.all_plots")
    monkeypatch.setattr(module, "np", module.np)
    return module


def test_all_plots_with_one_episode_per_evaluation(tmp_path, monkeypatch, plots_module):
    """Two runs that end at 3 and 7: mean 5, standard deviation 2, standard error 2 / sqrt(2). Upstream says 0."""
    evaluations(tmp_path, [3.0], [7.0])
    assert all_plots(monkeypatch, tmp_path)["std_error_last_eval"] == 0
    upstream.keep_axes_of_evaluations()
    plotted = all_plots(monkeypatch, tmp_path)
    assert sorted(plotted["last_evals"]) == [3.0, 7.0]
    assert plotted["std_error_last_eval"] == pytest.approx(2 / np.sqrt(2))
    assert type(plotted["last_evals"]) is type(plotted["mean_per_eval"]) is np.ndarray


@pytest.mark.parametrize("returns", [[4.0], [3.0, 5.0]])
def test_all_plots_with_one_run(returns, tmp_path, monkeypatch, plots_module):
    evaluations(tmp_path, returns)
    upstream.keep_axes_of_evaluations()
    assert all_plots(monkeypatch, tmp_path)["last_evals"].tolist() == [4.0]


def test_all_plots_invents_no_result(tmp_path, monkeypatch, capsys, plots_module):
    """Two algorithms, of which one has run."""
    evaluations(tmp_path, [3.0, 5.0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots_module, "pytablewriter", plots_module.pytablewriter)
    upstream.mark_missing_results()
    monkeypatch.setattr(sys, "argv", shlex.split("all_plots -a bear bc -e Env-v0 -f logs -o out --no-display"))
    plots_module.all_plots()
    plt.close("all")
    assert "0.0 +/- 0.0" not in capsys.readouterr().out
    (_, row) = pickle.loads((tmp_path / "out.pkl").read_bytes())["results_table"]["value_matrix"]
    assert row == ["Env-v0", "4 +/- 0", "-"]


def test_a_plot_keeps_the_title_that_fits(monkeypatch):
    monkeypatch.setattr(plt, "title", plt.title)
    upstream.skip_title_of_pybullet()
    plt.title("Sensitivity plot", fontsize=14)
    plt.title("PyBullet envs", fontsize=14)
    assert plt.gca().get_title() == "Sensitivity plot"
    plt.close("all")


def test_a_file_that_is_not_on_the_hub_raises_what_the_zoo_expects(monkeypatch):
    def load_from_hub(repo_id: str, filename: str) -> str:
        if filename == "there":
            return repo_id
        raise RemoteEntryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_sb3, "load_from_hub", load_from_hub)
    upstream.raise_the_error_for_missing_files()
    assert huggingface_sb3.load_from_hub("repository", "there") == "repository"
    with pytest.raises(requests.exceptions.HTTPError, match="404"):
        huggingface_sb3.load_from_hub("repository", "vec_normalize.pkl")


def test_ffmpeg_is_provided_where_there_is_none(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    upstream.provide_ffmpeg()
    assert os.environ["PATH"].endswith(os.pathsep + "/nowhere")
    assert "ffmpeg version" in subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout


def test_ffmpeg_of_the_machine_is_taken(monkeypatch, tmp_path):
    (tmp_path / "ffmpeg").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    upstream.provide_ffmpeg()
    assert os.environ["PATH"] == str(tmp_path)


def test_generate_metadata_is_given_back(monkeypatch):
    module = importlib.import_module("huggingface_sb3.push_to_hub")
    monkeypatch.delattr(module, "generate_metadata", raising=False)
    upstream.provide_generate_metadata()
    metadata = module.generate_metadata("BEAR", "Pendulum-v1", 12.0, 3.0)
    (result,) = metadata["model-index"][0]["results"]
    assert metadata["model-index"][0]["name"] == "BEAR" and result["dataset"]["name"] == "Pendulum-v1"
    assert result["metrics"][0]["value"] == "12.00 +/- 3.00"
    monkeypatch.setattr(module, "generate_metadata", "upstream's own")
    upstream.provide_generate_metadata()
    assert module.generate_metadata == "upstream's own"


@pytest.mark.parametrize("framework", [None, "qt"])
def test_figures_are_saved_where_there_is_no_display(framework, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    upstream.save_figures_without_display()
    plt.close("all")
    figure = plt.figure("Results: A/B")
    plt.plot([1, 2])
    monkeypatch.setattr(type(figure.canvas), "required_interactive_framework", framework)
    plt.show()
    plt.close("all")
    assert [path.name for path in tmp_path.iterdir()] == ([] if framework else ["Results-A-B.png"])
    assert shown == ([[1]] if framework else [])
    assert ("saved Results-A-B.png" in capsys.readouterr().out) == (framework is None)


def test_a_picture_replaces_no_other_and_an_empty_one_is_not_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", plt.show)  # restored afterwards
    upstream.save_figures_without_display()
    (tmp_path / "Results.png").write_bytes(b"of another command")
    for draws in (True, True, False):
        plt.figure("Results")
        plt.title("Results")
        if draws:
            plt.plot([1, 2])
        plt.show()
        plt.show()  # has nothing left to show
    assert (tmp_path / "Results.png").read_bytes() == b"of another command"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Results-2.png", "Results-3.png", "Results.png"]
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "Results: nothing to draw, nothing saved"
