"""
The RL Zoo with our algorithms: registration, and the ``sb3-pg-extras`` command.

``sb3-pg-extras train --algo bear --env Pendulum-v1`` is ``python -m rl_zoo3.train`` with our algorithms and
hyper-parameter files. All flags are the zoo's, except ``--dataset``, ``--held-out`` and ``--fqe-steps``. ``collect``,
``evaluate``, ``export``, ``inspect`` and ``grid`` are our own commands. Slow imports are made where they are used.
"""

import argparse
import importlib
import itertools
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import sb3_pg_extras

# Id -> name of the class. Search spaces are in search_spaces.py, hyper-parameters in hyperparams/.
CLASSES = {
    "bc": "BC",
    "bcq": "BCQ",
    "bear": "BEAR",
    "reinforce": "REINFORCE",
    "single_step_a2c": "SingleStepA2C",
    "td3_bc": "TD3BC",
}
# Command -> the module to run, or the function to call.
ZOO_COMMANDS = {
    "train": "rl_zoo3.train:train",
    "enjoy": "rl_zoo3.enjoy:enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "plot_train": "rl_zoo3.plots.plot_train:plot_train",
    "all_plots": "rl_zoo3.plots.all_plots:all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file:plot_from_file",
    "benchmark": "rl_zoo3.benchmark",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "load_from_hub": "rl_zoo3.load_from_hub",
}
OWN_COMMANDS = ("collect", "evaluate", "export", "inspect", "grid")
# Argument of load_dataset that no command takes -> what errors say that ask for it.
PYTHON_ONLY = {"columns": ("pass columns=",), "action_space": ("'action_space' is missing", "pass action_space")}
COMMANDS = ZOO_COMMANDS | {name: f"sb3_pg_extras.zoo.{name}:main" for name in OWN_COMMANDS}


class UsageError(Exception):
    """A command line that cannot be followed. The message, one line, says what to do."""


def __getattr__(name: str) -> Any:
    """``ALGORITHMS``: id -> class."""
    if name != "ALGORITHMS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return {algo: getattr(sb3_pg_extras, class_name) for algo, class_name in CLASSES.items()}


def new_file(name: str, suffix: str) -> Path:
    """
    :param name: A path without its suffix.
    :param suffix: The suffix.
    :return: The first of ``name``, ``name-2``, ``name-3``, ... with the suffix that does not exist.
    """
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := Path(name + suffix)).exists())


def register() -> None:
    """
    Make our algorithms and their search spaces known to the RL Zoo, by their ids.

    For the zoo's own commands, put ``import sb3_pg_extras.zoo; sb3_pg_extras.zoo.register()`` in a file
    ``custom_envs.py`` in the folder where they are run: the zoo imports that module.
    """
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    from sb3_pg_extras.zoo.search_spaces import CONVERTERS, SAMPLERS

    # All of the zoo's modules share these dicts.
    ALGOS.update(__getattr__("ALGORITHMS"))
    HYPERPARAMS_SAMPLER.update(SAMPLERS)
    HYPERPARAMS_CONVERTER.update(CONVERTERS)


def hyperparams_file(algo: str) -> Path:
    """
    :param algo: Id of one of our algorithms.
    :return: Its hyper-parameter file: in the package when installed from a wheel, at the top of a source checkout.
    """
    package = Path(__file__).parent.parent
    candidates = [folder / "hyperparams" / f"{algo}.yml" for folder in (package, package.parent)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def main() -> None:
    """Run the ``sb3-pg-extras`` command with the arguments of the process."""
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras",
        description=f"The RL Zoo's commands and our own, with {', '.join(CLASSES)} among the algorithms.",
        epilog="Each command lists its flags, the zoo's where the command is the zoo's: sb3-pg-extras train --help",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {sb3_pg_extras.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help=f"one of: {', '.join(COMMANDS)}")
    command = parser.parse_args(sys.argv[1:2]).command

    import gymnasium as gym

    from sb3_pg_extras.common.optional import MissingPackageError
    from sb3_pg_extras.datasets import DatasetError
    from sb3_pg_extras.zoo.upstream import WORKAROUNDS

    # Errors that end in one line instead of a traceback.
    user_errors = (DatasetError, FileNotFoundError, MissingPackageError, UsageError, gym.error.Error)
    sys.argv[:2] = [f"sb3-pg-extras {command}"]
    try:
        for work_around in WORKAROUNDS.get(command, []):
            work_around()
        _run(command, user_errors)
    except user_errors as error:
        sys.exit(f"sb3-pg-extras {command}: error: {error}{_python_hint(error)}")


def _python_hint(error: Exception) -> str:
    """:return: What to add to an error that asks for an argument that only Python takes."""
    for argument, words in PYTHON_ONLY.items():
        if any(word in str(error) for word in words):
            return (
                f". Commands take no {argument}=: read it once in Python with load_dataset(..., {argument}=...), "
                'save it with save_dataset(dataset, "log.npz"), and name that file'
            )
    return ""


def _run(command: str, user_errors: tuple[type[Exception], ...]) -> None:
    if command in ZOO_COMMANDS:
        register()
        # Optuna would log the traceback of an error that ends a search.
        for handler in logging.getLogger("optuna").handlers:
            handler.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], user_errors)))
    module, _, function = COMMANDS[command].partition(":")
    if function:
        getattr(importlib.import_module(module), function)()
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
