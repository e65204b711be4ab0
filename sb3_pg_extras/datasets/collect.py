"""Roll a policy in an environment -> OfflineDataset."""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_pg_extras.datasets.dataset import Observations, OfflineDataset, stream_ends

Act = Callable[[Any], np.ndarray]


def collect_dataset(env: VecEnv, act: Act | None, n_steps: int, env_id: str | None = None) -> OfflineDataset:
    """
    Take at least ``n_steps`` environment steps and keep every transition.

    A ``VecNormalize`` around the environment is switched off meanwhile: datasets hold raw observations and rewards.

    :param env: One or more environments; they are reset first. The streams follow each other in the dataset.
    :param act: Maps a batch of observations, shape ``(n_envs, ...)``, to actions in environment units, shape
        ``(n_envs, *action_space.shape)``; None draws from ``env.action_space``, uniformly.
    :param n_steps: Transitions to collect, rounded up to a multiple of ``n_envs``.
    :param env_id: Recorded in the dataset.
    :return: The dataset. The last episode of each stream may be cut: neither terminated nor truncated.
    """
    act = act or (lambda _: np.stack([env.action_space.sample() for _ in range(env.num_envs)]))
    normalize = unwrap_vec_normalize(env)
    if normalize is not None:
        switches = (normalize.training, normalize.norm_obs, normalize.norm_reward)
        normalize.training = normalize.norm_obs = normalize.norm_reward = False
    try:
        return _collect(env, act, -(-n_steps // env.num_envs), env_id)
    finally:
        if normalize is not None:
            normalize.training, normalize.norm_obs, normalize.norm_reward = switches


def _collect(env: VecEnv, act: Act, length: int, env_id: str | None) -> OfflineDataset:
    columns: dict[str, list[Any]] = {name: [] for name in ("s", "a", "r", "s_next", "terminated", "truncated")}
    observations: Any = env.reset()
    for _ in range(length):
        actions = act(observations)
        following, rewards, dones, infos = env.step(actions)
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        columns["s"].append(observations)
        columns["a"].append(actions)
        columns["r"].append(rewards)
        columns["s_next"].append(_with_terminal_observations(following, dones, infos))
        columns["terminated"].append(dones & ~truncated)
        columns["truncated"].append(truncated)
        observations = following
    terminations, truncations = _streams(columns["terminated"]), _streams(columns["truncated"])
    return OfflineDataset(
        observations=_streams(columns["s"]),
        actions=_streams(columns["a"]),
        rewards=_streams(columns["r"]),
        next_observations=_streams(columns["s_next"]),
        terminations=terminations,
        truncations=truncations,
        observation_space=env.observation_space,
        action_space=env.action_space,
        env_id=env_id,
        episode_ends=stream_ends(terminations | truncations, env.num_envs),
    )


def _with_terminal_observations(following: Any, dones: np.ndarray, infos: Any) -> Observations:
    """VecEnvs return the next episode's first observation at an episode's end: put the true last one back."""
    terminal = {index: infos[index]["terminal_observation"] for index, done in enumerate(dones) if done}
    if isinstance(following, dict):
        return {key: _replaced(value, {i: last[key] for i, last in terminal.items()}) for key, value in following.items()}
    return _replaced(following, terminal)


def _replaced(array: np.ndarray, rows: dict[int, np.ndarray]) -> np.ndarray:
    array = np.array(array)
    for index, row in rows.items():
        array[index] = row
    return array


def _streams(steps: list[Any]) -> Any:
    """T items of shape (n_envs, ...) -> (n_envs * T, ...), one environment's stream after the other."""
    if isinstance(steps[0], dict):
        return {key: _streams([step[key] for step in steps]) for key in steps[0]}
    return np.concatenate(np.stack(steps, axis=1))
