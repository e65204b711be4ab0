"""
The RL Zoo with our algorithms: registration, and the ``sb3-pg-extras`` command.

``sb3-pg-extras train --algo bear --env Pendulum-v1`` is ``python -m rl_zoo3.train`` with our ids known and our
hyper-parameter files found; every flag is the zoo's. ``sb3-pg-extras collect`` is a command of our own, with the flags of
the zoo's ``enjoy``. The zoo is imported where it is used, not with the package.
"""

import argparse
import logging
import runpy
import sys
import warnings
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg_extras.bear.bear import BEAR
from sb3_pg_extras.datasets import DatasetError
from sb3_pg_extras.reinforce.reinforce import REINFORCE
from sb3_pg_extras.single_step_a2c.single_step_a2c import SingleStepA2C
from sb3_pg_extras.zoo import upstream

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"bear": BEAR, "reinforce": REINFORCE, "single_step_a2c": SingleStepA2C}
# Our command -> the module that runs it.
ZOO_COMMANDS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "benchmark": "rl_zoo3.benchmark",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "load_from_hub": "rl_zoo3.load_from_hub",
}
COMMANDS = ZOO_COMMANDS | {"collect": "sb3_pg_extras.zoo.collect", "inspect": "sb3_pg_extras.zoo.inspect"}


def register() -> None:
    """
    Make our algorithms and their search spaces known to the RL Zoo, by their ids.

    For the zoo's own commands, put ``import sb3_pg_extras.zoo; sb3_pg_extras.zoo.register()`` in a file
    ``custom_envs.py`` next to where they are run: the zoo imports that module by itself.
    """
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    from sb3_pg_extras.zoo.search_spaces import CONVERTERS, SAMPLERS

    # Dicts that all of the zoo's modules share.
    ALGOS.update(ALGORITHMS)
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


def zoo_arguments(command: str, arguments: list[str]) -> list[str]:
    """
    :param command: A key of :data:`COMMANDS`.
    :param arguments: What follows it on the command line.
    :return: The same, with our hyper-parameter file where one of our algorithms is trained and none is given: the zoo
        looks only inside its own package.
    """
    if command != "train":
        return arguments
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("-conf", "--conf-file")
    known, _ = parser.parse_known_args(arguments)
    if known.algo not in ALGORITHMS or known.conf_file is not None:
        return arguments
    return [*arguments, "--conf-file", str(hyperparams_file(known.algo))]


def _is_not_a_dataset_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], DatasetError))


def main() -> None:
    """Run the ``sb3-pg-extras`` command with the arguments of the process."""
    commands = ", ".join(COMMANDS)
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras",
        description=f"The RL Zoo's commands and our own, with {', '.join(ALGORITHMS)} among the algorithms.",
        epilog="Each command lists its flags, the zoo's where the command is the zoo's: sb3-pg-extras train --help",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help=f"one of: {commands}")
    command = parser.parse_args(sys.argv[1:2]).command
    upstream.mend(command)
    register()
    if command == "train":
        from sb3_pg_extras.zoo.storage import share_searches

        share_searches()
    module = COMMANDS[command]
    sys.argv = [module, *zoo_arguments(command, sys.argv[2:])]
    # The zoo's package of plots imports the module that is then run.
    warnings.filterwarnings("ignore", message=".*found in sys.modules after import of package", category=RuntimeWarning)
    # Optuna logs the traceback of what ends a search; the one line below is enough for a dataset.
    for handler in logging.getLogger("optuna").handlers:
        handler.addFilter(_is_not_a_dataset_error)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except DatasetError as error:
        sys.exit(f"sb3-pg-extras {command}: error: {error}")
