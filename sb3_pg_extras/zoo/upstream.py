"""
Workarounds for faults of the RL Zoo and the libraries it uses, found in rl_zoo3 2.9.2, for the process that runs a command.

They are subclasses, wrappers and assignments; nothing is written into the installed packages. Each can be deleted once
upstream has no more of its fault; until then it does nothing where the fault is gone.
"""

import argparse
import atexit
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg_extras.common.files import atomic_write


def use_our_manager() -> None:
    """Have ``train`` run :class:`~sb3_pg_extras.zoo.manager.Manager`."""
    from sb3_pg_extras.zoo.manager import Manager

    importlib.import_module("rl_zoo3.train").ExperimentManager = Manager  # type: ignore[attr-defined]


def link_folders_with_spaces() -> None:
    """``record_training`` gives paths to a shell without quotes: replace those that have a space by links to them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-f", "--folder", default="rl-trained-agents")
    parser.add_argument("-o", "--output-folder")
    known, arguments = parser.parse_known_args(sys.argv[1:])
    if known.output_folder is not None:
        # As the command does; it would leave a link as it is.
        shutil.rmtree(known.output_folder, ignore_errors=True)
        os.makedirs(known.output_folder)
    for flag, folder in {"-f": known.folder, "-o": known.output_folder}.items():
        if folder is not None and " " in os.path.abspath(folder):
            link = Path(_temporary_folder(), "link")
            link.symlink_to(os.path.abspath(folder), target_is_directory=True)
            print(f"{link} is a link to {folder}: record_training takes no paths with spaces")
            folder = str(link)
        arguments += [] if folder is None else [flag, folder]
    sys.argv[1:] = arguments


def start_our_commands() -> None:
    """
    Have ``record_training`` and ``benchmark`` start our commands with this Python.

    They start the ``python`` on the PATH, with modules that do not know our ids and a script that only a checkout has.
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

    folder = _temporary_folder()
    Path(folder, "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def provide_generate_metadata() -> None:
    """The zoo imports ``generate_metadata``, which huggingface_sb3 3.2 has renamed and which returns no dict any more."""
    # Not an attribute of the package: the function of that name is.
    module: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(module, "generate_metadata"):
        module.generate_metadata = lambda *args: module._generate_metadata(*args).to_dict()


def raise_the_error_for_missing_files() -> None:
    """
    Have ``huggingface_sb3.load_from_hub`` raise the error that the zoo expects for a missing file, such as VecNormalize's.

    Since huggingface_hub 1 that is no error of requests any more, and ends the download.
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
    def squeeze(self, axis: Any = None) -> np.ndarray:
        return np.asarray(self)


class _NumPy:
    """NumPy for ``all_plots``, whose arrays of two axes, runs and episodes, keep them when they are squeezed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def array(self, values: Any) -> np.ndarray:
        array = np.array(values)
        return array.view(_LastEvaluations) if array.ndim == 2 else array


def keep_axes_of_evaluations() -> None:
    """
    Keep ``all_plots`` from squeezing its array of last evaluations.

    With one run that takes away the axis of the runs (``all_plots`` then fails on one evaluation episode,
    ``plot_from_file`` on any number of them), with one episode that of the episodes.
    """
    importlib.import_module("rl_zoo3.plots.all_plots").np = _NumPy()  # type: ignore[attr-defined]


def save_figures_without_display() -> None:
    """Where there is no display, save the figures, which would be lost, as new PNG files in the current folder."""
    from matplotlib import pyplot as plt

    show = plt.show

    def show_or_save(*args: Any, **kwargs: Any) -> None:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if figure.canvas.required_interactive_framework is not None:
                return show(*args, **kwargs)
            label = str(figure.get_label()) or f"figure-{number}"
            if any(axes.has_data() for axes in figure.axes):
                path = _new_file(re.sub(r"[^\w.-]+", "-", label))
                with atomic_write(path) as file:
                    figure.savefig(file, format="png")
                print(f"No display to show it on: saved {path}")
            else:
                print(f"{label}: nothing to draw, nothing saved")
            plt.close(figure)

    plt.show = show_or_save


def _new_file(name: str) -> Path:
    """name.png, or the first of name-2.png, name-3.png, ... that does not exist: no picture replaces another one."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := Path(f"{name}.png")).exists())


def skip_title_of_pybullet() -> None:
    """``plot_from_file`` calls whatever it plots "PyBullet envs", in the place of a title that fits."""
    from matplotlib import pyplot as plt

    title = plt.title
    plt.title = lambda label, **kwargs: None if label == "PyBullet envs" else title(label, **kwargs)  # type: ignore


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="sb3-pg-extras-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Command -> what is done before it runs.
WORKAROUNDS: dict[str, list[Callable[[], None]]] = {
    "train": [use_our_manager],
    "record_training": [link_folders_with_spaces, provide_ffmpeg, start_our_commands],
    "benchmark": [start_our_commands, raise_the_error_for_missing_files],
    "enjoy": [raise_the_error_for_missing_files],
    "push_to_hub": [provide_ffmpeg, provide_generate_metadata],
    "load_from_hub": [raise_the_error_for_missing_files],
    "plot_train": [save_figures_without_display],
    "all_plots": [save_figures_without_display, keep_axes_of_evaluations],
    "plot_from_file": [save_figures_without_display, skip_title_of_pybullet],
}
