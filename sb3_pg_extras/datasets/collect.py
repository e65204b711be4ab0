"""Rollouts of a policy in an environment -> OfflineDataset."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_pg_extras.common.dicts import map_arrays, named_arrays
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS, DatasetError, OfflineDataset

# (observations, episode_starts) -> actions in environment units. episode_starts, shape (n_envs,), is True where the
# observation is the first of an episode: recurrent policies forget there.
Act = Callable[[Any, np.ndarray], np.ndarray]


def collect_dataset(
    env: VecEnv, act: Callable[[Any], np.ndarray] | None, n_steps: int, env_id: str | None = None
) -> OfflineDataset:
    """
    Take at least ``n_steps`` environment steps and keep every transition.

    A ``VecNormalize`` around the environment is switched off during the steps: datasets hold raw observations and rewards.

    :param env: One or more environments; they are reset first. In the dataset one environment's transitions follow the
        other's.
    :param act: Maps a batch of observations, shape ``(n_envs, ...)``, to actions in environment units, shape
        ``(n_envs, *action_space.shape)``; None draws from ``env.action_space``, uniformly.
    :param n_steps: Transitions to collect, rounded up to a multiple of ``n_envs``.
    :param env_id: Gymnasium id of the environment, kept in the dataset.
    :return: The dataset. The last episode of each environment may be cut: neither terminated nor truncated.
    :raises ValueError: when ``n_steps`` is below 1.
    :raises DatasetError: when the environment's spaces are not supported, or what it returns is not finite.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}: must be at least 1")
    normalize = unwrap_vec_normalize(env)
    if normalize is not None:
        switches = (normalize.training, normalize.norm_obs, normalize.norm_reward)
        normalize.training = normalize.norm_obs = normalize.norm_reward = False
    try:
        steps = list(roll(env, random_actions(env) if act is None else lambda s, _: act(s), -(-n_steps // env.num_envs)))
    finally:
        if normalize is not None:
            normalize.training, normalize.norm_obs, normalize.norm_reward = switches
    return from_steps([np.concatenate(steps)], env.observation_space, env.action_space, env_id)


def random_actions(env: VecEnv) -> Act:
    """
    :param env: One or more environments.
    :return: A function that draws an action for each of them from ``env.action_space``, uniformly.
    """
    return lambda *_: np.stack([env.action_space.sample() for _ in range(env.num_envs)])


def roll(env: VecEnv, act: Act, n_steps: int) -> Iterator[np.ndarray]:
    """
    Reset the environments and step them all, ``n_steps`` times.

    :param env: One or more environments, whose observations and rewards are taken as they are.
    :param act: Maps observations and episode starts to actions.
    :param n_steps: Steps in each environment.
    :return: After each step its transitions: shape ``(1,)`` of :func:`step_dtype`, a copy. The next observation at an
        episode's end is the one that ended it, not the first of the next episode.
    :raises DatasetError: when the environment's spaces are not supported, or what it returns is not finite.
    """
    dtype = step_dtype(env)
    observations: Any = env.reset()
    starts = np.ones(env.num_envs, bool)
    for number in range(n_steps):
        step = np.empty(1, dtype)
        # Copied before the step, which may change them in place.
        map_arrays(_put, _unpacked(step["observations"]), observations)
        actions = act(observations, starts)
        step["actions"] = actions
        following, rewards, dones, infos = env.step(actions)
        step["rewards"] = rewards
        step["truncations"] = [info.get("TimeLimit.truncated", False) for info in infos]
        step["terminations"] = dones & ~step["truncations"][0]
        map_arrays(_put, _unpacked(step["next_observations"]), following)
        for index in np.flatnonzero(dones):
            # VecEnvs return the next episode's first observation there.
            last = infos[index].get("terminal_observation")
            if last is None:
                raise DatasetError(
                    f"environment {index} ended an episode at step {number}, but infos has no 'terminal_observation': "
                    "a VecEnv has to put the last observation there when it resets an environment, as DummyVecEnv does"
                )
            map_arrays(partial(_put, row=(0, index)), _unpacked(step["next_observations"]), last)
        for name in ("observations", "actions", "rewards", "next_observations"):
            for label, array in named_arrays(name, _unpacked(step[name])):
                _check_finite(label, array[0], number)
        yield step
        observations, starts = following, dones


def _unpacked(field: np.ndarray) -> Any:
    """A field of steps, as a view; for a Dict observation, a dict of views."""
    return field if field.dtype.names is None else {key: field[key] for key in field.dtype.names}


def _put(array: np.ndarray, value: Any, row: Any = 0) -> None:
    array[row] = value


def step_dtype(env: VecEnv) -> np.dtype:
    """
    :param env: One or more environments.
    :return: The type of one step in all of them: the array fields of :class:`OfflineDataset`, each of shape
        ``(n_envs, ...)``; a Dict observation has a field for each key. Floats are float32, as in datasets.
    :raises DatasetError: when the spaces are not supported.
    """

    def of(name: str, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict) and name == "observations":
            return [(key, of(f"{name}[{key!r}]", part)) for key, part in space.items()]
        if space.shape is None or space.dtype is None:
            raise DatasetError(f"{name}: spaces of type {type(space).__name__} are not supported")
        return np.dtype((np.float32 if space.dtype.kind == "f" else space.dtype, (env.num_envs, *space.shape)))

    observations, flags = np.dtype(of("observations", env.observation_space)), np.dtype((bool, (env.num_envs,)))
    rewards = np.dtype((np.float32, (env.num_envs,)))
    types = (observations, of("actions", env.action_space), rewards, observations, flags, flags)
    return np.dtype(list(zip(ARRAY_FIELDS, types, strict=True)))


def _check_finite(name: str, values: np.ndarray, step: int) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        index = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        value = values[index]
        raise DatasetError(f"{name} of environment {index} is not finite at step {step}: {value}. Repair the environment")


def from_steps(
    runs: Sequence[np.ndarray], observation_space: spaces.Space, action_space: spaces.Space, env_id: str | None = None
) -> OfflineDataset:
    """
    Put the transitions of all runs and environments one after the other.

    :param runs: For each run, begun with a reset, its steps: shape ``(n_steps,)`` of :func:`step_dtype`, at least one.
    :param observation_space: The environment's observation space.
    :param action_space: The environment's action space.
    :param env_id: Gymnasium id of the environment, kept in the dataset.
    :return: The dataset. The last episode of each run and environment may be cut: neither terminated nor truncated.
    """

    def joined(*arrays: np.ndarray) -> np.ndarray:
        # (n_steps, n_envs, ...) -> (N, ...), one environment after the other.
        return np.concatenate([array[:, env] for array in arrays for env in range(array.shape[1])])

    fields = {name: map_arrays(joined, *(_unpacked(run[name]) for run in runs)) for name in ARRAY_FIELDS}
    lengths = [len(run) for run in runs for _ in range(run["rewards"].shape[1])]
    return OfflineDataset(
        **fields,
        observation_space=observation_space,
        action_space=action_space,
        env_id=env_id,
        episode_ends=np.union1d(np.flatnonzero(fields["terminations"] | fields["truncations"]) + 1, np.cumsum(lengths)),
    )
