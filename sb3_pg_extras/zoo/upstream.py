"""
What is broken in the RL Zoo's commands and the libraries they use, mended for the process that runs one of them.

Each mend names the version it was found in and looks for the fault first: once upstream has mended it, nothing is changed
here, and the mend can be deleted. Nothing is written into the installed packages.
"""

import atexit
import importlib.machinery
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from sb3_pg_extras.common.files import atomic_write


class Replacement(NamedTuple):
    """In the source of one of the zoo's modules: text that holds a fault, and what is run in its place."""

    module: str
    fault: str
    mended: str


REPLACEMENTS = [
    # rl_zoo3 2.9.2: -optimize makes a run folder that never gets a model; the next enjoy takes it for the latest run.
    Replacement(
        "rl_zoo3.exp_manager",
        "        self.create_log_folder()\n",
        "        self.optimize_hyperparameters or self.create_log_folder()\n",
    ),
    Replacement(
        "rl_zoo3.exp_manager",
        "self.create_envs(n_envs, no_log=False)",
        "self.create_envs(n_envs, no_log=self.optimize_hyperparameters)",
    ),
    # rl_zoo3 2.9.2: --trial-id 0, the first trial of a study, is taken for none, and the entry is trained without a word.
    Replacement(
        "rl_zoo3.exp_manager",
        "self.storage and self.study_name and self.trial_id:",
        "self.storage and self.study_name and self.trial_id is not None:",
    ),
    # rl_zoo3 2.9.2: child processes that do not know our ids, need "python" on the PATH, and run a script of the checkout.
    Replacement(
        "rl_zoo3.record_training",
        '"python", "-m", "rl_zoo3.record_video"',
        f'{sys.executable!r}, "-m", "sb3_pg_extras.zoo", "record_video"',
    ),
    # rl_zoo3 2.9.2: paths with spaces are several arguments for ffmpeg, and the command ends for want of its video.
    Replacement(
        "rl_zoo3.record_training", "ffmpeg -i {episode_videos_path[i]} -vf", 'ffmpeg -i "{episode_videos_path[i]}" -vf'
    ),
    Replacement(
        "rl_zoo3.record_training", "-codec:a copy {tmp_videos_path[i]} -y", '-codec:a copy "{tmp_videos_path[i]}" -y'
    ),
    Replacement("rl_zoo3.record_training", "file {video_path}\\n", "file '{video_path}'\\n"),
    Replacement(
        "rl_zoo3.record_training",
        "-i {ffmpeg_text_file} -c copy {final_video_path} -hide",
        "-i '{ffmpeg_text_file}' -c copy '{final_video_path}' -hide",
    ),
    Replacement(
        "rl_zoo3.record_training",
        "ffmpeg -i {final_video_path} -vf fps=10 {final_gif_path} -hide",
        "ffmpeg -i '{final_video_path}' -vf fps=10 '{final_gif_path}' -hide",
    ),
    Replacement(
        "rl_zoo3.benchmark",
        '"python", "enjoy.py"',
        f'{sys.executable!r}, "-m", "sb3_pg_extras.zoo", "enjoy"',
    ),
    # rl_zoo3 2.9.2: squeeze() takes the axis of the runs away where there is one run (all_plots then fails on one evaluation
    # episode, plot_from_file on any number), and the axis of the episodes where there is one episode.
    Replacement("rl_zoo3.plots.all_plots", "np.array(last_eval).squeeze().mean(", "np.array(last_eval).mean("),
    # rl_zoo3 2.9.2: a title left over, above whatever is plotted.
    Replacement("rl_zoo3.plots.plot_from_file", '    plt.title("PyBullet envs", fontsize=args.fontsize)\n', ""),
    # rl_zoo3 2.9.2 with huggingface_hub >= 1: a model without VecNormalize ends load_from_hub, since the error for a file
    # that is not there is no longer one of requests.
    Replacement(
        "rl_zoo3.load_from_hub",
        "from requests.exceptions import HTTPError",
        "from huggingface_hub.errors import EntryNotFoundError as HTTPError",
    ),
]


class _MendedLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Not from the cached bytecode, which holds the fault.
        return compile(mended_source(fullname, self.get_source(fullname) or ""), self.path, "exec", dont_inherit=True)


class _MendedFinder:
    """Finds the modules of :data:`REPLACEMENTS` that hold a fault, and leaves all others to Python's own finders."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in {replacement.module for replacement in REPLACEMENTS}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec
        source = spec.loader.get_source(fullname) or ""
        if mended_source(fullname, source) == source:
            return spec
        return importlib.util.spec_from_file_location(fullname, loader=_MendedLoader(fullname, spec.loader.path))


def mended_source(module: str, source: str) -> str:
    """
    :param module: Full name of a module.
    :param source: Its source.
    :return: The source with the faults of :data:`REPLACEMENTS` replaced; as it is where there are none.
    """
    for replacement in REPLACEMENTS:
        if replacement.module == module:
            source = source.replace(replacement.fault, replacement.mended)
    return source


def mend_sources() -> None:
    """Run the zoo's modules with their faults replaced: those that are imported from now on, or run by ``runpy``."""
    if _MendedFinder not in sys.meta_path:
        sys.meta_path.insert(0, _MendedFinder)


def provide_ffmpeg() -> None:
    """
    Put the ffmpeg that imageio-ffmpeg ships on the PATH of this process and its children, where there is none.

    rl_zoo3 2.9.2 and huggingface_sb3 3.2 call ``ffmpeg`` by name, and lose their video without an error that says why.
    """
    if shutil.which("ffmpeg") is not None:
        return
    import imageio_ffmpeg

    folder = tempfile.mkdtemp(prefix="ffmpeg-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])


def provide_generate_metadata() -> None:
    """
    Give ``huggingface_sb3.push_to_hub`` back the function that rl_zoo3 2.9.2 imports from it.

    huggingface_sb3 3.2 has renamed ``generate_metadata`` and returns an object where the zoo expects a dict.
    """
    from huggingface_sb3 import push_to_hub as function  # noqa: F401  (the package's name is the function's)

    module = sys.modules["huggingface_sb3.push_to_hub"]
    if hasattr(module, "generate_metadata"):
        return

    def generate_metadata(model_name: str, env_id: str, mean_reward: float, std_reward: float) -> dict[str, Any]:
        return module._generate_metadata(model_name, env_id, mean_reward, std_reward).to_dict()

    module.generate_metadata = generate_metadata  # type: ignore[attr-defined]


def save_figures_without_display() -> None:
    """
    Where matplotlib has no display to show figures on, save them as PNG files in the current folder.

    rl_zoo3 2.9.2's plot commands show their figures and do nothing else with them: without a display they are lost.
    """
    from matplotlib import pyplot as plt

    show = plt.show

    def show_or_save(*args: Any, **kwargs: Any) -> None:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if figure.canvas.required_interactive_framework is not None:
                return show(*args, **kwargs)
            name = re.sub(r"[^\w.-]+", "-", str(figure.get_label()) or f"figure-{number}")
            with atomic_write(f"{name}.png") as file:
                figure.savefig(file, format="png")
            print(f"No display to show it on: saved {name}.png")

    plt.show = show_or_save


# Command -> what it needs besides the replacements in the sources.
MENDS = {
    "record_training": [provide_ffmpeg],
    "push_to_hub": [provide_ffmpeg, provide_generate_metadata],
    "plot_train": [save_figures_without_display],
    "all_plots": [save_figures_without_display],
    "plot_from_file": [save_figures_without_display],
}


def mend(command: str) -> None:
    """
    Mend what is broken upstream for one command; to be called before the zoo is imported.

    :param command: One of the zoo's commands.
    """
    mend_sources()
    for function in MENDS.get(command, []):
        function()
