"""What is in a dataset, in numbers: for the table and the picture of ``sb3-pg-extras inspect``."""

from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_pg_extras.common.dicts import arrays_of, map_arrays
from sb3_pg_extras.datasets.scores import normalized_score

# An ``OfflineDataset``, whose module imports this one.
Dataset = Any

N_BINS = 10
# An action this close to a bound, as a share of the space's width, is at it.
AT_BOUND = 1e-4
# For a discrete choice with more values, those that were never taken are not listed.
MAX_LISTED = 100
# Columns that are printed in percent.
SHARES = ("at bound", "bins used", "share")


def summary(dataset: Dataset) -> str:
    """
    :param dataset: The dataset.
    :return: The table that is printed: :func:`facts`, :func:`distributions` and :func:`action_coverage`.
    """
    what = facts(dataset)
    width = max(map(len, what))
    lines = [f"{name:{width}}  {value}" for name, value in what.items()]
    return "\n".join([*lines, "", *aligned(distributions(dataset)), "", *aligned(_actions(dataset))])


def facts(dataset: Dataset) -> dict[str, Any]:
    """
    :param dataset: The dataset.
    :return: What it holds, by printed name; the memory is that of the arrays.
    """
    last = dataset.episode_ends - 1
    terminal, time_limit = dataset.terminations[last], dataset.truncations[last] & ~dataset.terminations[last]
    arrays = [array for value in vars(dataset).values() for array in arrays_of(value) if isinstance(array, np.ndarray)]
    return {
        "environment": dataset.env_id or "not named in the data",
        "observations": dataset.observation_space,
        "actions": dataset.action_space,
        "episodes": dataset.n_episodes,
        "  ended by a terminal state": terminal.sum(),
        "  ended by a time limit": time_limit.sum(),
        "  cut by the end of the data": (~terminal & ~time_limit).sum(),
        "steps": len(dataset),
        "memory": f"{sum(array.nbytes for array in arrays) / 1e6:.1f} MB",
        "NaN or infinite": "none (loading refuses them)",
    }


def distributions(dataset: Dataset) -> dict[str, dict[str, float]]:
    """
    :param dataset: The dataset.
    :return: The :func:`statistics` of its ``return`` (see :meth:`OfflineDataset.episode_returns`), ``episode length`` and
        ``reward``, and of its ``normalized score`` where references are known.
    """
    returns = dataset.episode_returns()
    values = {"return": returns}
    with suppress(ValueError):
        values["normalized score"] = normalized_score(dataset, returns)
    values |= {"episode length": dataset.episode_lengths(), "reward": dataset.rewards}
    return {name: statistics(numbers) for name, numbers in values.items()}


def statistics(values: Any) -> dict[str, float]:
    """
    :param values: Numbers, at least one, shape ``(N,)``.
    :return: Mean, standard deviation (over N), minimum, quartiles (interpolated) and maximum.
    """
    values = np.asarray(values, dtype=np.float64)
    names = ("min", "25%", "median", "75%", "max")
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return {"mean": float(values.mean()), "std": float(values.std()), **dict(zip(names, quantiles.tolist(), strict=True))}


def action_coverage(dataset: Dataset) -> list[dict[Any, Any]]:
    """
    How much of the action space the data covers.

    :param dataset: The dataset.
    :return: For each dimension of a Box ``mean``, ``std``, ``min``, ``max``; ``at bound``, the share of actions at the lower
        or the upper bound (None where there is none); and ``bins used``, the share of ten equal bins between the bounds (or
        the extremes of the data) that hold an action. For each choice of a discrete space a dict from each possible value
        (if there are more than a hundred, each value taken) to how often it was taken.
    """
    columns = dataset.actions.reshape(len(dataset), -1).T
    space = dataset.action_space
    if isinstance(space, spaces.Box):
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        return [
            _box_coverage(column, *limits, at_bound)
            for column, limits, at_bound in zip(columns, action_bounds(dataset), bounded.ravel().tolist(), strict=True)
        ]
    return [_counts(column, values) for column, values in zip(columns, _possible(space), strict=True)]


def action_bounds(dataset: Dataset) -> list[tuple[float, float]]:
    """
    :param dataset: A dataset whose actions are a Box.
    :return: For each dimension the bounds of the space, or where it has none the extremes of the data.
    """
    columns = dataset.actions.reshape(len(dataset), -1)
    low, high = dataset.action_space.low.ravel(), dataset.action_space.high.ravel()
    low, high = np.where(np.isfinite(low), low, columns.min(axis=0)), np.where(np.isfinite(high), high, columns.max(axis=0))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def image_observations(dataset: Dataset) -> tuple[np.ndarray, spaces.Space] | None:
    """
    :param dataset: The dataset.
    :return: The observations that are images, shape ``(N, ...)``, and their space; the first key of that kind where
        observations are a Dict; None without any.
    """
    return next((pair for pair in _observations(dataset) if is_image_space(pair[1])), None)


def project(dataset: Dataset, max_points: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The first two principal components of the standardised observations; of a Dict, of all keys but images.

    :param dataset: The dataset.
    :param max_points: Rows of a larger dataset are drawn at random, always the same ones.
    :return: The rows, increasing, shape ``(P,)``; their coordinates, shape ``(P, 2)``; and the share of the variance that
        each of the two explains. Each axis points to where its largest weight is positive.
    """
    rows = np.arange(len(dataset))
    if len(rows) > max_points:
        rows = np.sort(np.random.default_rng(0).choice(rows, max_points, replace=False))
    vectors = [array[rows].reshape(len(rows), -1) for array, space in _observations(dataset) if not is_image_space(space)]
    values = np.concatenate([*vectors, np.zeros((len(rows), 2))], axis=1).astype(np.float64)
    # Constant columns stay at zero; so do the two added above for data of fewer dimensions.
    values -= values.mean(axis=0)
    values /= np.where(values.std(axis=0) > 1e-12, values.std(axis=0), 1.0)
    _, scales, axes = np.linalg.svd(values, full_matrices=False)
    scales, axes = np.append(scales, [0.0, 0.0]), np.concatenate([axes, np.zeros((2, axes.shape[1]))])[:2]
    axes *= np.where(axes[[0, 1], np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)[:, np.newaxis]
    return rows, values @ axes.T, scales[:2] ** 2 / max((scales**2).sum(), 1e-12)


def _observations(dataset: Dataset) -> list[tuple[np.ndarray, spaces.Space]]:
    return arrays_of(map_arrays(lambda *pair: pair, dataset.observations, dataset.observation_space))


def _box_coverage(column: np.ndarray, low: float, high: float, bounded: bool) -> dict[str, Any]:
    numbers, column = statistics(column), column.astype(np.float64)
    room = AT_BOUND * (high - low)
    # An action may lie outside by its rounding.
    histogram, _ = np.histogram(column.clip(low, high), N_BINS, (low, high))
    return {name: numbers[name] for name in ("mean", "std", "min", "max")} | {
        "at bound": float(((column <= low + room) | (column >= high - room)).mean()) if bounded else None,
        "bins used": float((histogram > 0).mean()),
    }


def _possible(space: Any) -> list[range]:
    """The values of each choice of a discrete space."""
    if isinstance(space, spaces.MultiBinary):
        return [range(2)] * int(np.prod(space.shape))
    starts, sizes = np.ravel(space.start), np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    return [range(start, start + size) for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]


def _counts(column: np.ndarray, values: range) -> dict[int, int]:
    taken, counts = np.unique(column.astype(np.int64), return_counts=True)
    listed = values if len(values) <= MAX_LISTED else taken.tolist()
    return dict.fromkeys(listed, 0) | dict(zip(taken.tolist(), counts.tolist(), strict=True))


def _actions(dataset: Dataset) -> dict[str, dict[str, Any]]:
    coverage = action_coverage(dataset)
    if isinstance(dataset.action_space, spaces.Box):
        return {f"action[{i}]": numbers for i, numbers in enumerate(coverage)}
    labels = ["action"] if len(coverage) == 1 else [f"action[{i}]" for i in range(len(coverage))]
    return {
        f"{label} = {value}": {"steps": count, "share": count / len(dataset)}
        for label, counts in zip(labels, coverage, strict=True)
        for value, count in counts.items()
    }


def aligned(rows: dict[str, dict[str, Any]]) -> list[str]:
    """
    :param rows: Numbers by column, by row; the columns of each row are the first row's.
    :return: The lines of a table, names on the left, numbers on the right.
    """
    cells = [["", *next(iter(rows.values()))]]
    cells += [[label, *(_cell(name, value) for name, value in values.items())] for label, values in rows.items()]
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in cells]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
