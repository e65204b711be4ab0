"""
Workarounds for bugs of the RL Zoo 2.9.2 and the libraries it uses, in the process that runs a command.

They are subclasses, wrappers and assignments; no installed file is changed. Each can be deleted once its bug is fixed
upstream, and does no harm until then.
"""

import argparse
import atexit
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.zoo import CLASSES, UsageError, new_file

# How YAML writes what Python writes in another way.
YAML_WORDS = {"true": True, "false": False, "null": None, "none": None}
# What record_training leaves in its folder.
VIDEO_FILES = r"\.(mp4|gif|meta\.json)$|^tmp\.txt$"


def take_strings_without_quotes() -> None:
    """
    The zoo evaluates ``name:value`` as Python: take what is not Python, such as ``dataset:hopper.npz``, as a string. Not so
    ``false`` and the like, which as a string would be true.
    """
    utils: Any = importlib.import_module("rl_zoo3.utils")

    def store(self: argparse.Action, parser: Any, namespace: argparse.Namespace, values: list[str], *more: Any) -> None:
        evaluated = {}
        for argument in values:
            name, _, value = argument.partition(":")
            try:
                evaluated[name] = eval(value, dict(vars(utils)))
            except Exception as error:
                if not value or re.search(r"[][(){}'\"]", value):
                    raise argparse.ArgumentError(self, f"{argument!r}: expected name:value ({error})") from error
                evaluated[name] = YAML_WORDS.get(value.lower(), value)
        setattr(namespace, self.dest, evaluated)

    utils.StoreDict.__call__ = store


def refuse_unknown_environments() -> None:
    """``train`` ends in a traceback if the environment is not registered."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    known, _ = parser.parse_known_args(sys.argv[1:])
    for module in ("rl_zoo3.import_envs", *known.gym_packages):
        importlib.import_module(module)
    gym.spec(known.env)


def find_models() -> None:
    """Skip runs without a model, which a crash leaves, and say how to get a model if there is none."""
    utils: Any = importlib.import_module("rl_zoo3.utils")
    get_latest_run_id, get_model_path = utils.get_latest_run_id, utils.get_model_path

    def latest_with_model(log_path: str, env_name: str) -> int:
        names = [path.parent.name.removeprefix(f"{env_name}_") for path in Path(log_path).glob(f"{env_name}_*/*.zip")]
        ids = [int(name) for name in names if name.isdigit()]
        if not ids and get_latest_run_id(log_path, env_name) > 0:
            raise UsageError(f"no run of {env_name} in {log_path} has a model: train one")
        return max(ids, default=0)

    def path_of_model(exp_id: int, folder: str, algo: str, env_name: str, *args: Any) -> tuple[str, str, str]:
        try:
            return get_model_path(exp_id, folder, algo, env_name, *args)
        except (AssertionError, ValueError) as error:
            # enjoy downloads the zoo's own agents.
            if "rl-trained-agents" in folder and algo not in CLASSES:
                raise
            command = f"sb3-pg-extras train --algo {algo} --env {env_name}"
            raise UsageError(f"{error}: train one ({command}), or name its folder and run with -f and --exp-id") from error

    utils.get_latest_run_id, utils.get_model_path = latest_with_model, path_of_model


def use_our_manager() -> None:
    """Have ``train`` run :class:`~sb3_pg_extras.zoo.manager.Manager`, and take ``--dataset``."""
    from sb3_pg_extras.zoo.manager import Manager
    from sb3_pg_extras.zoo.offline import TrainParser

    train: Any = importlib.import_module("rl_zoo3.train")
    train.ExperimentManager, train.argparse = Manager, SimpleNamespace(ArgumentParser=TrainParser)


def refuse_runs_without_environment() -> None:
    """A run of ``train --dataset`` without ``--env`` has nothing to act in."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--env", default="")
    parser.add_argument("--algo", default="")
    parser.add_argument("-f", "--folder", default="logs" if sys.argv[0].endswith("collect") else "rl-trained-agents")
    parser.add_argument("--exp-id", default=0, type=int)
    known, _ = parser.parse_known_args(sys.argv[1:])
    name, folder = known.env.replace("/", "-"), Path(known.folder, known.algo)
    run = known.exp_id or importlib.import_module("rl_zoo3.utils").get_latest_run_id(str(folder), name)
    if (folder / f"{name}_{run}" / name / "split.yml").is_file():
        command = f"sb3-pg-extras evaluate --algo {known.algo} --dataset DATASET -f {known.folder}"
        raise UsageError(f"{name} is a dataset, with no environment to act in. Evaluate its models with {command}")


def keep_other_files() -> None:
    """``record_training`` deletes its output folder, whatever is in it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-o", "--output-folder")
    known, _ = parser.parse_known_args(sys.argv[1:])
    for path in Path(known.output_folder).glob("*") if known.output_folder else []:
        if not re.search(VIDEO_FILES, path.name):
            raise UsageError(f"--output-folder {path.parent}: record_training would delete {path}: name a new folder")


def refuse_paths_with_spaces() -> None:
    """``record_training`` passes paths to a shell without quotes, and leaves no video if one has a space."""
    for path in (os.getcwd(), *sys.argv[1:]):
        if " " in path:
            raise UsageError(f"{path!r} has a space, which record_training cannot handle: use a symbolic link without one")


def start_our_commands() -> None:
    """
    Have ``record_training`` and ``benchmark`` start our commands with this Python.

    They start the ``python`` on the PATH, with modules that do not know our ids and a script that the zoo's wheel lacks.
    """
    call = subprocess.call

    def call_ours(command: Any, *args: Any, **kwargs: Any) -> int:
        for words, ours in (["python", "-m", "rl_zoo3.record_video"], "record_video"), (["python", "enjoy.py"], "enjoy"):
            if command[: len(words)] == words:
                command = [sys.executable, "-m", "sb3_pg_extras.zoo", ours, *command[len(words) :]]
        return call(command, *args, **kwargs)

    subprocess.call = call_ours  # type: ignore[assignment]


def provide_ffmpeg() -> None:
    """
    Where there is no ffmpeg, put the one that imageio-ffmpeg ships on the PATH of this process and its children.

    The zoo and huggingface_sb3 3.2 call ``ffmpeg`` by name, and lose their video without an error that says why.
    """
    if shutil.which("ffmpeg") is not None:
        return
    import imageio_ffmpeg

    folder = tempfile.mkdtemp(prefix="sb3-pg-extras-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder, "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def provide_generate_metadata() -> None:
    """The zoo imports ``generate_metadata``, which huggingface_sb3 3.2 renamed and which no longer returns a dict."""
    # The package's attribute of this name is a function, not this module.
    module: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(module, "generate_metadata"):
        module.generate_metadata = lambda *args: module._generate_metadata(*args).to_dict()


def raise_the_error_for_missing_files() -> None:
    """
    Have ``huggingface_sb3.load_from_hub`` raise the error that the zoo expects for a missing file, such as VecNormalize's.

    Since huggingface_hub 1 the error is not one of requests any more, and ends the download.
    """
    import huggingface_sb3
    from huggingface_hub.errors import EntryNotFoundError
    from requests.exceptions import HTTPError

    load_from_hub = huggingface_sb3.load_from_hub

    def load(*args: Any, **kwargs: Any) -> str:
        try:
            return load_from_hub(*args, **kwargs)
        except EntryNotFoundError as error:
            raise HTTPError(str(error)) from error

    huggingface_sb3.load_from_hub = load


class _LastEvaluations(np.ndarray):
    """An array of runs and episodes that keeps both axes."""

    def squeeze(self, axis: Any = None) -> np.ndarray:
        return np.asarray(self)


def keep_axes_of_evaluations() -> None:
    """
    Keep ``all_plots`` from squeezing its array of last evaluations.

    With one run, squeezing removes the axis of runs (``all_plots`` then fails with one evaluation episode,
    ``plot_from_file`` with any number of them); with one episode, it removes the axis of episodes.
    """

    def array(values: Any) -> np.ndarray:
        made = np.array(values)
        return made.view(_LastEvaluations) if made.ndim == 2 else made

    module: Any = importlib.import_module("rl_zoo3.plots.all_plots")
    module.np = SimpleNamespace(**{**vars(np), "array": array})


def mark_missing_results() -> None:
    """``all_plots`` says "0.0 +/- 0.0" where there is no run: put "-" there."""
    import pytablewriter

    class Table(pytablewriter.MarkdownTableWriter):
        def write_table(self, **kwargs: Any) -> None:
            for row in self.value_matrix:
                row[:] = ["-" if cell == "0.0 +/- 0.0" else cell for cell in row]
            super().write_table(**kwargs)

    module: Any = importlib.import_module("rl_zoo3.plots.all_plots")
    module.pytablewriter = SimpleNamespace(MarkdownTableWriter=Table)


def refuse_without_runs() -> None:
    """``plot_train`` and ``all_plots`` end in a traceback, or in an empty table, if there is no run to plot."""
    parser = argparse.ArgumentParser(prog=sys.argv[0], add_help=False)
    flags: tuple[str, ...]
    for flags in ("-a", "--algo", "--algos"), ("-e", "--env"), ("-f", "--exp-folder", "--exp-folders"):
        parser.add_argument(*flags, dest=flags[0][1], nargs="+", required=not {"-h", "--help"} & set(sys.argv))
    known, _ = parser.parse_known_args(sys.argv[1:])
    places = [(Path(folder, algo.lower()), env) for folder in known.f or [] for algo in known.a for env in known.e]
    logs = "*.monitor.csv" if sys.argv[0].endswith("plot_train") else "evaluations.npz"
    if places and not any(next(path.glob(f"*{env}*/{logs}"), None) for path, env in places):
        raise UsageError(f"no run of {', '.join(known.a)} on {', '.join(known.e)} in {', '.join(known.f)} has left {logs}")


def save_figures_without_display() -> None:
    """Without a display, save the figures, which would be lost, as new PNG files in the current folder."""
    from matplotlib import pyplot as plt

    show = plt.show

    def show_or_save(*args: Any, **kwargs: Any) -> None:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if figure.canvas.required_interactive_framework is not None:
                return show(*args, **kwargs)
            label = str(figure.get_label()) or f"figure-{number}"
            if any(axes.has_data() for axes in figure.axes):
                path = new_file(re.sub(r"[^\w.-]+", "-", label), ".png")
                with atomic_write(path) as file:
                    figure.savefig(file, format="png")
                print(f"No display to show it on: saved {path}")
            else:
                print(f"{label}: nothing to draw, nothing saved")
            plt.close(figure)

    plt.show = show_or_save


def skip_title_of_pybullet() -> None:
    """``plot_from_file`` titles every plot "PyBullet envs"."""
    from matplotlib import pyplot as plt

    title = plt.title
    plt.title = lambda label, **kwargs: None if label == "PyBullet envs" else title(label, **kwargs)  # type: ignore


# Of the commands that let a model act.
ACTING = [find_models, refuse_runs_without_environment, take_strings_without_quotes]
# Command -> the workarounds to apply before it runs.
WORKAROUNDS: dict[str, list[Callable[[], None]]] = {
    "train": [take_strings_without_quotes, refuse_unknown_environments, use_our_manager],
    "record_training": [*ACTING, keep_other_files, refuse_paths_with_spaces, provide_ffmpeg, start_our_commands],
    "record_video": ACTING,
    "benchmark": [find_models, start_our_commands, raise_the_error_for_missing_files],
    "enjoy": [*ACTING, raise_the_error_for_missing_files],
    "collect": ACTING,
    "push_to_hub": [*ACTING, provide_ffmpeg, provide_generate_metadata],
    "export": [find_models, take_strings_without_quotes],
    "load_from_hub": [raise_the_error_for_missing_files],
    "plot_train": [refuse_without_runs, save_figures_without_display],
    "all_plots": [refuse_without_runs, save_figures_without_display, keep_axes_of_evaluations, mark_missing_results],
    "plot_from_file": [save_figures_without_display, skip_title_of_pybullet],
}
