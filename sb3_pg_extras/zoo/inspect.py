"""``sb3-pg-extras inspect DATASET``: what is in a dataset, as a table and a picture."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.load import BUNDLED_PREFIX, MINARI_PREFIX
from sb3_pg_extras.zoo.plots import plot_dataset
from sb3_pg_extras.zoo.summary import action_coverage, summarize

STATISTICS = ("mean", "std", "min", "25%", "median", "75%", "max")
COVERAGE = ("mean", "std", "min", "max", "at_bound", "bins_used")


def main() -> None:
    """Run ``sb3-pg-extras inspect`` with the arguments of the process."""
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras inspect", description="Print what is in a dataset, and draw it as a PNG."
    )
    parser.add_argument("dataset", help="a file or folder, minari:<id>, or bundled:<name>")
    parser.add_argument(
        "--env", help="id of the environment, for a file that names none (its action space, its reference scores)"
    )
    parser.add_argument("-o", "--output", type=Path, help="the PNG to write (default: the dataset's name, in this folder)")
    parser.add_argument("--no-plot", action="store_true", help="the table only")
    args = parser.parse_args()
    output = args.output or Path(f"{dataset_name(args.dataset)}.png")
    if output.suffix != ".png":
        parser.error(f"argument -o/--output: {output}: the file name must end in .png")
    if not args.no_plot:
        require("matplotlib", "plots")  # before time is spent
    dataset = _load(args.dataset, None if args.env is None else _action_space(parser, args.env), args.env)
    print("\n".join(table(dataset)))
    if not args.no_plot:
        plot_dataset(dataset, output, dataset_name(args.dataset))
        print(f"\nPicture: {output}")


def dataset_name(source: str) -> str:
    """
    :param source: What ``load_dataset`` takes, as a string.
    :return: A name for files about it: ``"pendulum-mixed-v0"`` of ``"bundled:pendulum-mixed-v0"``.
    """
    for prefix in (BUNDLED_PREFIX, MINARI_PREFIX):
        if source.startswith(prefix):
            return source.removeprefix(prefix).replace("/", "-")
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.stem


def table(dataset: OfflineDataset) -> list[str]:
    """
    :param dataset: The dataset.
    :return: The lines of the table that is printed.
    """
    summary = summarize(dataset)
    lines = _columns(
        [
            ["environment", summary["env_id"] or "not named in the data"],
            ["observations", str(summary["observation_space"])],
            ["actions", str(summary["action_space"])],
            ["episodes", str(summary["n_episodes"])],
            ["  ended by a terminal state", str(summary["n_terminal"])],
            ["  ended by a time limit", str(summary["n_time_limit"])],
            ["  cut by the end of the data", str(summary["n_cut"])],
            ["steps", str(summary["n_steps"])],
            ["memory", f"{summary['n_bytes'] / 1e6:.1f} MB"],
            ["NaN or infinite", "none (loading refuses them)"],
        ],
        right=False,
    )
    rows = [["", *STATISTICS]]
    for label, name in (
        ("return", "returns"),
        ("normalized score", "normalized_scores"),
        ("episode length", "lengths"),
        ("reward", "rewards"),
    ):
        if name in summary:
            rows.append([label, *(_number(summary[name][key]) for key in STATISTICS)])
    return [*lines, "", *_columns(rows), "", *_columns(_action_rows(dataset))]


def _action_rows(dataset: OfflineDataset) -> list[list[str]]:
    coverage = action_coverage(dataset)
    if isinstance(dataset.action_space, spaces.Box):
        rows = [["", *(name.replace("_", " ") for name in COVERAGE)]]
        for i, dimension in enumerate(coverage):
            shares = ["-" if dimension[name] is None else f"{dimension[name]:.1%}" for name in COVERAGE[4:]]
            rows.append([f"action[{i}]", *(_number(dimension[name]) for name in COVERAGE[:4]), *shares])
        return rows
    rows = [["", "steps", "share"]]
    for i, dimension in enumerate(coverage):
        label = "action" if len(coverage) == 1 else f"action[{i}]"
        for value, count in dimension["counts"].items():
            rows.append([f"{label} = {value}", str(count), f"{count / len(dataset):.1%}"])
    return rows


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


def _number(value: Any) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _columns(rows: list[list[str]], right: bool = True) -> list[str]:
    """Rows of strings -> lines; the first column is aligned on the left, the others on the right if they are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        aligned = [text.rjust(width) if right else text for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *aligned]))
    return lines
