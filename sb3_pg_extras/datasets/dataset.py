"""``OfflineDataset``: a log of transitions that is checked once, when it is made, and then read-only."""

import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.dicts import arrays_of, map_arrays, map_named_arrays, named_arrays
from sb3_pg_extras.datasets.mapped import parts, stays_in_file
from sb3_pg_extras.datasets.plots import plot_dataset
from sb3_pg_extras.datasets.summary import summary

Observations = np.ndarray | dict[str, np.ndarray]

# How far outside the action space an action may lie, as a share of the space's width: room for float32 rounding only.
ACTION_TOLERANCE = 1e-4
# Numbers whose range is such a share of their size are warned of: float32 tells fewer than 200 values apart in it. A smaller
# range is rounding.
LOST_RANGE = (1e-10, 1e-5)
# Spaces of integers that stand for choices.
CHOICES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
# The spaces of a reward and of a flag.
NUMBER, FLAG = spaces.Box(-np.inf, np.inf, (), np.float32), spaces.Discrete(2)
# Whether real actions outside their bounds are clipped: load_dataset sets it for whichever reader makes the dataset.
CLIP_ACTIONS: ContextVar[bool] = ContextVar("clip_actions", default=False)


class DatasetError(Exception):
    """
    A dataset that cannot be used. The message names the file or the field, the row, both values and what to do.

    It is not a ``ValueError``: the RL Zoo's ``-optimize`` treats those as bad hyper-parameters and prunes the trial.
    """


@dataclass(frozen=True, eq=False, repr=False)
class OfflineDataset:
    """
    Transitions ``(s, a, r, s', terminated, truncated)`` of one or more episodes, one after the other.

    Everything is checked on construction and read-only afterwards; floats are kept as float32, flags as bool. Memory-mapped
    arrays (``numpy.load(..., mmap_mode="r")``) are read once to be checked, and stay in their files as they are.

    :param observations: ``s``, shape ``(N, *observation_space.shape)``, or a dict of such arrays for a Dict space;
        as the environment gives them, before any normalisation.
    :param actions: ``a``, shape ``(N, *action_space.shape)``, in the environment's own units (not scaled to [-1, 1]).
    :param rewards: ``r``, shape ``(N,)``.
    :param next_observations: ``s'``, like ``observations``: the state that the action led to, at an episode's end too
        (never the first observation of the next episode).
    :param terminations: shape ``(N,)``, True where the episode ended in a terminal state: nothing follows it.
    :param truncations: shape ``(N,)``, True where the episode was cut (a time limit): the value of ``s'`` counts.
    :param observation_space: The environment's observation space.
    :param action_space: The environment's action space.
    :param env_id: Gymnasium id of the environment the data comes from, if known.
    :param reference_scores: Mean episode returns of a random and of an expert policy, ``(random, expert)``, if known.
    :param episode_ends: shape ``(E,)``, for each episode the row after its last one, increasing, the last being ``N``.
        By default an episode ends at each termination or truncation and at the last row.
    :raises DatasetError: when a field is empty, of the wrong shape or type, not finite, or outside its space.
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: Observations
    terminations: np.ndarray
    truncations: np.ndarray
    observation_space: spaces.Space
    action_space: spaces.Space
    env_id: str | None = None
    reference_scores: tuple[float, float] | None = None
    episode_ends: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self, name), spaces.Space):
                raise DatasetError(f"{name} must be a gymnasium space, not {getattr(self, name)!r}")
        checked: dict[str, Any] = {
            "observations": _check_observations("observations", self.observations, self.observation_space),
            "next_observations": _check_observations("next_observations", self.next_observations, self.observation_space),
            "actions": _check_values("actions", self.actions, self.action_space, (spaces.Box, *CHOICES)),
            "rewards": _check_values("rewards", self.rewards, NUMBER),
            "terminations": as_flags("terminations", self.terminations),
            "truncations": as_flags("truncations", self.truncations),
        }
        n_rows = len(checked["actions"])
        for name, value in checked.items():
            for label, array in named_arrays(name, value):
                if len(array) != n_rows:
                    raise DatasetError(f"{label} has {len(array)} rows but actions has {n_rows}")
        checked["episode_ends"] = self._check_episode_ends(checked["terminations"] | checked["truncations"])
        for value in checked.values():
            for array in arrays_of(value):
                array.flags.writeable = False
        if self.reference_scores is not None:
            checked["reference_scores"] = _check_reference_scores(self.reference_scores)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _check_episode_ends(self, dones: np.ndarray) -> np.ndarray:
        n_rows = len(dones)
        if np.size(self.episode_ends) == 0:
            ends = np.flatnonzero(dones) + 1
            return ends if len(ends) and ends[-1] == n_rows else np.append(ends, n_rows)
        ends = as_array("episode_ends", self.episode_ends)
        if ends.ndim != 1 or ends.dtype.kind not in "iu":
            raise DatasetError(f"episode_ends must be a list of row numbers, not {ends.dtype} of shape {ends.shape}")
        ends = ends.astype(np.int64)
        if ends[0] < 1 or ends[-1] != n_rows or np.any(np.diff(ends) < 1):
            raise DatasetError(f"episode_ends must increase from at least 1 to the number of rows, {n_rows}: got {ends}")
        unlisted = dones.copy()
        unlisted[ends - 1] = False
        if unlisted.any():
            row = int(np.argmax(unlisted))
            raise DatasetError(f"row {row} is terminated or truncated: episode_ends must list {row + 1}")
        return ends

    def __len__(self) -> int:
        """:return: The number of transitions, ``N``."""
        return len(self.actions)

    def __getitem__(self, rows: slice) -> "OfflineDataset":
        """
        :param rows: Successive transitions, ``dataset[start:stop]``.
        :return: A dataset of views. An episode that the slice cuts neither terminates nor is truncated there.
        :raises TypeError: when it is not a slice.
        :raises DatasetError: when it is empty, or its rows do not follow each other.
        """
        if not isinstance(rows, slice):
            raise TypeError(f"dataset[{rows!r}]: must be a slice such as dataset[:9]. Fields have rows: dataset.rewards[0]")
        start, stop, step = rows.indices(len(self))
        if step != 1 or start >= stop:
            raise DatasetError(
                f"dataset[{rows.start}:{rows.stop}:{rows.step}] of {len(self)} transitions: must be successive rows"
            )
        ends = np.clip(self.episode_ends, start, stop) - start
        return self._rows(slice(start, stop), ends[np.diff(ends, prepend=0) > 0])

    def __repr__(self) -> str:
        origin = f"{self.env_id}, " if self.env_id else ""
        return (
            f"OfflineDataset({origin}{len(self)} transitions, {self.n_episodes} episodes, "
            f"mean return {self.episode_returns().mean():.1f})"
        )

    @property
    def n_episodes(self) -> int:
        """:return: The number of episodes, ``E``, including one that the end of the data cuts short."""
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> np.ndarray:
        """:return: The row of each episode's first transition, shape ``(E,)``."""
        return np.concatenate([[0], self.episode_ends[:-1]])

    def episode_lengths(self) -> np.ndarray:
        """:return: Transitions in each episode, shape ``(E,)``."""
        return np.diff(self.episode_ends, prepend=0)

    def episode_returns(self) -> np.ndarray:
        """
        Undiscounted returns of the complete episodes.

        :return: shape ``(C,)``. Episodes that neither terminate nor reach their time limit (the data just stops) are
            left out, unless there are no others.
        """
        returns = np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)
        complete = self.terminations[self.episode_ends - 1] | self.truncations[self.episode_ends - 1]
        return returns[complete] if complete.any() else returns

    def episodes(self) -> Iterator["OfflineDataset"]:
        """:return: The episodes, one after the other, each a dataset whose arrays are views of this one's."""
        for start, end in zip(self.episode_starts, self.episode_ends, strict=True):
            yield self[start:end]

    def split(self, fraction: float = 0.8, seed: int | None = 0) -> tuple["OfflineDataset", "OfflineDataset"]:
        """
        Two datasets of whole episodes, to train on and to evaluate on.

        :param fraction: Share of the episodes in the first, between 0 and 1.
        :param seed: Seed of the draw; None keeps the episodes' order, so that the second holds the last ones.
        :return: The two datasets, copies in memory also of memory-mapped data.
        :raises ValueError: when ``fraction`` is not between 0 and 1.
        :raises DatasetError: when one of them would be empty.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction}: must be between 0 and 1")
        first = round(fraction * self.n_episodes)
        if first in (0, self.n_episodes):
            raise DatasetError(f"split({fraction}) of {self.n_episodes} episodes leaves one part empty")
        order = np.arange(self.n_episodes) if seed is None else np.random.default_rng(seed).permutation(self.n_episodes)
        return self._episodes(np.sort(order[:first])), self._episodes(np.sort(order[first:]))

    def filter_episodes(
        self,
        predicate: Callable[["OfflineDataset"], bool] | None = None,
        top: float | None = None,
        min_return: float | None = None,
    ) -> "OfflineDataset":
        """
        The episodes that meet all conditions given.

        :param predicate: A function of an episode that returns whether to keep it.
        :param top: Share of the episodes to keep, those with the highest undiscounted returns.
        :param min_return: The lowest undiscounted return to keep.
        :return: Those episodes, in their order.
        :raises ValueError: when ``top`` is not in (0, 1].
        :raises DatasetError: when none is left.
        """
        if top is not None and not 0 < top <= 1:
            raise ValueError(f"top={top}: must be above 0 and at most 1")
        returns = np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)
        keep = np.full(self.n_episodes, True)
        if min_return is not None:
            keep &= returns >= min_return
        if top is not None:
            best = np.argsort(-returns, kind="stable")[: max(1, round(top * self.n_episodes))]
            keep &= np.isin(np.arange(self.n_episodes), best)
        if predicate is not None:
            keep &= [bool(predicate(episode)) for episode in self.episodes()]
        if not keep.any():
            raise DatasetError(
                f"no episode of {self.n_episodes} is left: predicate={predicate}, top={top}, min_return={min_return}, "
                f"returns go from {returns.min():g} to {returns.max():g}"
            )
        return self._episodes(np.flatnonzero(keep))

    def sample(self, n: int, seed: int | None = None) -> dict[str, Any]:
        """
        :param n: Transitions to draw, with replacement.
        :param seed: Seed of the draw; None for a different draw each time.
        :return: The six fields by name, each (n, ...).
        """
        rows = np.random.default_rng(seed).integers(len(self), size=n)
        return {name: map_arrays(lambda array: array[rows], getattr(self, name)) for name in ARRAY_FIELDS}

    def concatenate(self, *others: "OfflineDataset") -> "OfflineDataset":
        """
        :param others: Datasets with this one's spaces.
        :return: All transitions, in memory: this dataset's, then the others'. No episode goes on from one to the next.
            ``env_id`` and ``reference_scores`` are each None unless all datasets have the same.
        :raises DatasetError: when the spaces differ.
        """
        for other in others:
            for name in ("observation_space", "action_space"):
                if getattr(other, name) != getattr(self, name):
                    raise DatasetError(f"{name} differs: {getattr(self, name)} and {getattr(other, name)}")
        datasets = [self, *others]
        offsets = np.cumsum([0, *map(len, datasets)])
        ends = np.concatenate([each.episode_ends + offset for each, offset in zip(datasets, offsets, strict=False)])
        arrays = {
            name: map_arrays(lambda *columns: np.concatenate(columns), *(getattr(each, name) for each in datasets))
            for name in ARRAY_FIELDS
        }
        env_id = self.env_id if all(each.env_id == self.env_id for each in datasets) else None
        same_scores = all(each.reference_scores == self.reference_scores for each in datasets)
        scores = self.reference_scores if same_scores else None
        return replace(self, **arrays, episode_ends=ends, env_id=env_id, reference_scores=scores)

    def summary(self) -> str:
        """:return: What is in the dataset, as the table that ``sb3-pg-extras inspect`` prints."""
        return summary(self)

    def plot(self, path: str | Path, title: str = "") -> None:
        """
        Draw its returns, its actions, and where its observations lie, as ``sb3-pg-extras inspect`` does.

        :param path: The PNG to write.
        :param title: Title of the picture.
        """
        plot_dataset(self, path, title)

    def _episodes(self, numbers: np.ndarray) -> "OfflineDataset":
        lengths = self.episode_lengths()[numbers]
        rows = np.concatenate([np.arange(self.episode_starts[i], self.episode_ends[i]) for i in numbers])
        return self._rows(rows, np.cumsum(lengths))

    def _rows(self, rows: Any, ends: np.ndarray) -> "OfflineDataset":
        fields = {name: map_arrays(lambda array: array[rows], getattr(self, name)) for name in ARRAY_FIELDS}
        return replace(self, **fields, episode_ends=ends)


# The names of the array fields that every dataset has.
ARRAY_FIELDS = tuple(f.name for f in fields(OfflineDataset))[:6]


def as_array(name: str, value: Any) -> np.ndarray:
    """
    :param name: What messages call it.
    :param value: Anything that holds numbers.
    :return: The same as an array, a view where it is one.
    :raises DatasetError: when it is ragged, empty, a single number, or holds anything but numbers.
    """
    try:
        array = value if stays_in_file(value) else np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{name} must hold numbers, not {array.dtype}")
    if array.size == 0:
        raise DatasetError(f"{name} is empty (shape {array.shape}): a dataset needs at least one transition")
    if array.ndim == 0:
        raise DatasetError(f"{name} is a single number, {array}: an array is needed")
    # A view, so that the caller's array stays writable.
    return array.view()


def check_finite(name: str, array: np.ndarray, first_row: int = 0) -> None:
    """
    :param name: What messages call it.
    :param array: Numbers, shape (N, ...).
    :param first_row: The number that messages give its first row.
    :raises DatasetError: when one of them is NaN or infinite.
    """
    if array.dtype.kind != "f" or array.size == 0:
        return
    # NaN survives minimum and maximum; unlike np.isfinite(array), they need no array of flags.
    if all(np.isfinite([part.min(), part.max()]).all() for part in parts(array)):
        return
    row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
    raise DatasetError(f"{name} row {first_row + row} is not finite: {array[row]}. Remove or repair that row")


def _as_float32(array: np.ndarray, name: str) -> np.ndarray:
    # A mapped array would be copied into memory: batches of it are converted instead.
    if isinstance(array, np.memmap) and array.dtype.kind == "f":
        return array
    if array.dtype.itemsize > 4:
        _warn_of_merged_values(array.reshape(len(array), -1), name)
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(np.float32, copy=False)


def _warn_of_merged_values(columns: np.ndarray, name: str) -> None:
    low, high = (np.asarray(bound, np.float64) for bound in (columns.min(axis=0), columns.max(axis=0)))
    with np.errstate(all="ignore"):
        share = (high - low) / np.maximum(np.abs(low), np.abs(high))
    merged = np.flatnonzero((share > LOST_RANGE[0]) & (share < LOST_RANGE[1]))
    if len(merged):
        i = merged[0]
        step = np.spacing(np.float32(max(abs(low[i]), abs(high[i]))))
        warnings.warn(
            f"{name}: column {i} goes from {low[i]:.10g} to {high[i]:.10g}, of which float32 keeps steps of {step:.2g}: "
            "subtract its first value, or leave it out"
        )


def _check_observations(name: str, value: Any, space: spaces.Space) -> Observations:
    # The bounds of real numbers do not matter, but choices become one-hot vectors.
    check = partial(_check_values, bounded=CHOICES)
    if not isinstance(space, spaces.Dict):
        return check(name, value, space)
    if not isinstance(value, dict) or set(value) != set(space.spaces):
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise DatasetError(f"{name} must be a dict with the keys {sorted(space.spaces)}, not {got}")
    return map_named_arrays(check, name, {key: value[key] for key in space.spaces}, space)


def _check_values(name: str, value: Any, space: spaces.Space, bounded: tuple[type[spaces.Space], ...] = ()) -> np.ndarray:
    """Values of a space are finite and have its shape; those of a ``bounded`` type of space lie in it."""
    if not isinstance(space, (spaces.Box, *CHOICES)):
        raise DatasetError(f"{name}: spaces of type {type(space).__name__} are not supported")
    array = as_array(name, value)
    if array.dtype.kind == "f" or (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
        array = _as_float32(array, name)
    check_finite(name, array)
    if array.size == len(array) and space.shape is not None and np.prod(space.shape) == 1:
        # A single number per row may have its own axis or not.
        array = array.reshape(len(array), *space.shape)
    if array.shape[1:] != space.shape:
        shape = ", ".join(map(str, ("N", *(space.shape or ()))))
        raise DatasetError(f"{name} has shape {array.shape} but its space {space} has ({shape})")
    row = _first_outside(array, space) if isinstance(space, bounded) else None
    if row is None:
        return array
    if isinstance(space, spaces.Box) and CLIP_ACTIONS.get():
        return _clipped(array, space)
    hint = ". Actions are stored in the environment's own units" * (name == "actions")
    hint += "; load_dataset(..., clip_actions=True) clips them, except in sharded data" * isinstance(space, spaces.Box)
    raise DatasetError(f"{name} row {row} is {array[row]}, outside its space {space}{hint}")


def _clipped(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    clipped = np.clip(np.array(actions, subok=False), space.low, space.high).astype(space.dtype)
    excess = np.abs(actions - clipped).reshape(len(actions), -1).max(axis=1)
    n_outside, furthest = np.count_nonzero(excess), excess.max()
    warnings.warn(f"{n_outside} of {len(actions)} actions were outside {space}, by at most {furthest:.3g}: they are clipped")
    return np.asarray(clipped.astype(np.float32, copy=False)) if clipped.dtype.kind == "f" else clipped


def _first_outside(array: np.ndarray, space: spaces.Space) -> int | None:
    """The first row that lies outside the space, if any does."""
    low: Any = 0
    high: Any = 1
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        with np.errstate(invalid="ignore"):
            slack = np.nan_to_num(ACTION_TOLERANCE * (high - low), posinf=0.0)
        low, high = low - slack, high + slack
    elif isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + (space.nvec - 1)
    # A choice is an integer.
    no_fractions = array.dtype.kind == "f" and not isinstance(space, spaces.Box)
    row = 0
    for part in parts(array):
        # If all numbers lie within the narrowest bounds, no array of flags is needed.
        if no_fractions or part.min() < np.max(low) or part.max() > np.min(high):
            inside = (part >= low) & (part <= high) & ((part % 1 == 0) if no_fractions else True)
            if not inside.all():
                return row + int(np.argmin(inside.reshape(len(part), -1).all(axis=1)))
        row += len(part)
    return None


def as_flags(name: str, value: Any) -> np.ndarray:
    """
    :param name: What messages call it.
    :param value: Flags, as bools or numbers, shape (N,) or (N, 1).
    :return: The same as bools, shape (N,).
    :raises DatasetError: when one of them is neither 0 nor 1.
    """
    flags = _check_values(name, value, FLAG)
    row = None if flags.dtype == bool else _first_outside(flags, FLAG)
    if row is not None:
        raise DatasetError(f"{name} row {row} is {flags[row]}: flags are False or True (0 or 1)")
    return np.asarray(flags).astype(bool, copy=False)


def _check_reference_scores(value: Any) -> tuple[float, float]:
    # In double precision, unlike the data.
    scores = as_array("reference_scores", value)
    if scores.shape != (2,) or not np.isfinite(scores).all():
        raise DatasetError(f"reference_scores must be (random, expert), two finite numbers: got {value}")
    return float(scores[0]), float(scores[1])
