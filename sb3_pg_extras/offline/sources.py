"""Where an offline algorithm's transitions come from, and what stands in for a missing environment."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.datasets import DatasetSource, OfflineDataset, bundled_dataset_for, collect_dataset, load_dataset
from sb3_pg_extras.datasets.layout import has_spaces
from sb3_pg_extras.datasets.sharded import ShardedParquet, is_sharded

HOW_TO_PASS_A_DATASET = "dataset= takes what load_dataset() does: a file, an SB3 ReplayBuffer, a dict of arrays, ..."


def open_dataset(
    dataset: DatasetSource, action_space: spaces.Space | None = None, verbose: int = 1
) -> OfflineDataset | ShardedParquet:
    """
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes, or ``"sharded:<path>"``.
    :param action_space: The action space to assume for a source that names none.
    :param verbose: 0 for no progress bar.
    :return: The dataset, or the reader of a sharded one.
    :raises DatasetError: when it cannot be used.
    """
    if is_sharded(dataset):
        return ShardedParquet(str(dataset), action_space)
    return load_dataset(dataset, action_space, verbose)


def dataset_for(env: VecEnv, n_collect_steps: int, verbose: int) -> DatasetSource:
    """
    The dataset to learn from when the user gave none.

    :param env: The environment.
    :param n_collect_steps: Random steps to take where no dataset is bundled for it.
    :param verbose: 1 to print which dataset it is.
    :return: The bundled dataset, or else, with a warning, uniformly random steps of the environment.
    """
    spec = env.get_attr("spec")[0]
    env_id = None if spec is None else spec.id
    bundled = bundled_dataset_for(env_id)
    # A wrapped environment keeps its id, but may have other spaces.
    if bundled is not None and has_spaces(load_dataset(bundled, verbose=verbose), env.observation_space, env.action_space):
        if verbose >= 1:
            print(f"Learning from the dataset that ships for {env_id}: {bundled}")
        return bundled
    warnings.warn(
        f"no dataset was given: this takes {n_collect_steps} uniformly random steps in "
        f"{env_id or 'the environment'} (n_collect_steps) and learns from those. {HOW_TO_PASS_A_DATASET}"
    )
    return collect_dataset(env, None, n_collect_steps, env_id)


def check_supported(observation_space: spaces.Space | None, action_space: spaces.Space | None) -> None:
    """
    :param observation_space: The model's observation space, if there is one yet.
    :param action_space: Its action space.
    :raises ValueError: for spaces that SB3's networks cannot handle.
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    for key, space in parts.items():
        if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
            raise ValueError(
                f"observation_space {key or space}: SB3's networks count from 0, start={space.start} is not supported. "
                "Subtract it from the observations"
            )
    if not isinstance(action_space, spaces.Box):
        return
    with np.errstate(over="ignore"):
        wide = np.flatnonzero(~np.isfinite(action_space.high - action_space.low))
    if len(wide):
        low, high = action_space.low.flat[wide[0]], action_space.high.flat[wide[0]]
        raise ValueError(
            f"action_space: dimension {wide[0]} goes from {low:g} to {high:g}, which is too wide for single precision. "
            "Give the actions' real bounds"
        )


class DatasetEnv(gym.Env[Any, Any]):
    """
    Stands in for an environment: it has a dataset's spaces, and nothing to step.

    :param dataset: The dataset.
    """

    def __init__(self, dataset: OfflineDataset | ShardedParquet) -> None:
        example = dataset.first if isinstance(dataset, ShardedParquet) else dataset
        self.observation_space = example.observation_space
        self.action_space = example.action_space
        # Copies: a view would keep all of the observations in memory.
        self._first = map_arrays(lambda array: array[0].copy(), example.observations)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: Seed of the environment's generator.
        :param options: Ignored.
        :return: The dataset's first observation, and no further information.
        """
        super().reset(seed=seed, options=options)
        return self._first, {}

    def step(self, action: Any) -> Any:
        """:raises RuntimeError: always."""
        raise RuntimeError("This model was made with env=None: there is no environment to step. Use set_env() or pass env=")
