"""``sb3-pg-extras inspect DATASET``: what is in a dataset, as a table and a picture."""

import argparse
import dataclasses
from pathlib import Path

import gymnasium as gym
from gymnasium import spaces

from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.load import BUNDLED_PREFIX, MINARI_PREFIX
from sb3_pg_extras.zoo import new_file


def main() -> None:
    """Run ``sb3-pg-extras inspect`` with the arguments of the process."""
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras inspect", description="Print what is in a dataset, and draw it as a PNG."
    )
    parser.add_argument("dataset", help="a file or folder, minari:<id>, or bundled:<name>")
    parser.add_argument(
        "--env", help="id of the environment, for a file that names none (its action space, its reference scores)"
    )
    parser.add_argument("-o", "--output", type=Path, help="the PNG to write (default: a new file in this folder)")
    parser.add_argument("--no-plot", action="store_true", help="print the table only")
    args = parser.parse_args()
    output = args.output or new_file(dataset_name(args.dataset), ".png")
    if output.suffix != ".png":
        parser.error(f"argument -o/--output: {output}: the file name must end in .png")
    dataset = _load(args.dataset, args.env and _action_space(parser, args.env), args.env)
    print(dataset.summary())
    if not args.no_plot:
        dataset.plot(output, dataset_name(args.dataset))
        print(f"\nPicture: {output}")


def dataset_name(source: str) -> str:
    """
    :param source: What ``load_dataset`` takes, as a string.
    :return: A name for files about it: ``"pendulum-mixed-v0"`` for ``"bundled:pendulum-mixed-v0"``.
    """
    for prefix in (BUNDLED_PREFIX, MINARI_PREFIX):
        if source.startswith(prefix):
            return source.removeprefix(prefix).replace("/", "-")
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.stem


def _load(source: str, action_space: spaces.Space | None, env_id: str | None) -> OfflineDataset:
    try:
        dataset = load_dataset(source, action_space)
    except DatasetError as error:
        if action_space is None and "action_space" in str(error):
            raise DatasetError(f"{error}. Here: --env ID") from error
        raise
    return dataset if env_id is None or dataset.env_id else dataclasses.replace(dataset, env_id=env_id)


def _action_space(parser: argparse.ArgumentParser, env_id: str) -> spaces.Space:
    try:
        env = gym.make(env_id)
    except (gym.error.Error, ImportError) as error:
        parser.error(f"argument --env: {env_id!r} cannot be made: {error}")
    space = env.action_space
    env.close()
    return space
