"""From offline to online: one of SB3's off-policy algorithms that starts from an offline one's networks and dataset."""

from copy import deepcopy
from typing import Any, TypeVar

from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_pg_extras.datasets import OfflineDataset, load_dataset
from sb3_pg_extras.datasets.layout import check_spaces, has_spaces, to_replay_buffer
from sb3_pg_extras.offline.normalization import copy_statistics, what_is_normalized
from sb3_pg_extras.offline.sources import DatasetEnv

OnlineAlgorithm = TypeVar("OnlineAlgorithm", bound=OffPolicyAlgorithm)

# Arguments of policies that do not change the networks.
OPTIMIZER_KWARGS = {"optimizer_class", "optimizer_kwargs"}
# SB3's own default. Nothing is used until it is filled.
DEFAULT_BUFFER_SIZE = 1_000_000


def go_online(
    model: Any,
    algorithm: type[OnlineAlgorithm],
    policy: str | type[BasePolicy],
    networks: dict[str, Any],
    env: GymEnv | str | None,
    keep_dataset: bool,
    kwargs: dict[str, Any],
) -> OnlineAlgorithm:
    """
    What ``to_sac`` and ``to_td3`` do; their docstrings say what ``env``, ``keep_dataset`` and errors are.

    :param model: The offline model.
    :param algorithm: SB3's algorithm.
    :param policy: Its policy, whose networks are among the offline policy's.
    :param networks: Arguments of that policy.
    :param kwargs: Arguments of the algorithm, which take precedence over :func:`shared_arguments`.
    :return: The online model, with the offline one's weights.
    """
    kwargs = shared_arguments(model) | kwargs
    changes = checked_policy_kwargs(kwargs.pop("policy_kwargs", None), OPTIMIZER_KWARGS)
    vec_env = _online_env(model, env)
    if model.replay_buffer_kwargs.get("normalize_rewards"):
        vec_env = _with_normalized_rewards(model, vec_env)
    dataset = _dataset_of(model) if keep_dataset else None
    if dataset is not None:
        # The dataset replaces the random steps at the start.
        kwargs = {"learning_starts": 0} | kwargs
        steps = -(-len(dataset) // vec_env.num_envs) + kwargs.pop("buffer_size", DEFAULT_BUFFER_SIZE) // vec_env.num_envs
        kwargs["buffer_size"] = steps * vec_env.num_envs
    networks = {"features_extractor_class": model.policy.features_extractor_class, **networks, **changes}
    online: Any = algorithm(policy, vec_env, policy_kwargs=networks, **kwargs)
    own = online.policy.state_dict()
    online.policy.load_state_dict({name: value for name, value in model.policy.state_dict().items() if name in own})
    if dataset is not None:
        to_replay_buffer(dataset, online.replay_buffer)
    return online


def shared_arguments(model: Any) -> dict[str, Any]:
    """
    :param model: An offline model, or an off-policy one of SB3.
    :return: The constructor arguments that mean the same for both.
    """
    names = ("batch_size", "tau", "gamma", "tensorboard_log", "verbose", "device")
    return {name: getattr(model, name) for name in names} | {"stats_window_size": model._stats_window_size}


def checked_policy_kwargs(policy_kwargs: dict[str, Any] | None, changeable: set[str]) -> dict[str, Any]:
    """
    :param policy_kwargs: The user's arguments for a policy whose networks exist already.
    :param changeable: The arguments that can still be set.
    :return: The same, as a dict.
    :raises ValueError: for any other argument.
    """
    for name, value in (policy_kwargs or {}).items():
        if name not in changeable:
            raise ValueError(
                f"policy_kwargs {name}={value!r}: the networks are there already. What can be set is {sorted(changeable)}"
            )
    return policy_kwargs or {}


def _dataset_of(model: Any) -> OfflineDataset:
    if model.dataset is None:
        raise ValueError(
            "keep_dataset=True, but this model has no dataset (arrays in memory are not saved with a model): "
            "pass dataset= to load(), call set_dataset(), or pass keep_dataset=False"
        )
    dataset = load_dataset(model.dataset, model.action_space)
    # If only its path was saved with the model, the file may have changed.
    check_spaces(dataset, model.observation_space, model.action_space)
    return dataset


def _online_env(model: Any, env: GymEnv | str | None) -> VecEnv:
    """The environment to go online in: checked, wrapped, and normalised as the model's observations were."""
    env = model.env if env is None else env
    unwrapped = env.unwrapped if isinstance(env, VecEnv) else env
    first = unwrapped.envs[0].unwrapped if isinstance(unwrapped, DummyVecEnv) else unwrapped
    if env is None or isinstance(first, DatasetEnv):
        raise ValueError("env=None, and this model was made or loaded without an environment: pass env= to go online")
    vec_env = OffPolicyAlgorithm._wrap_env(maybe_make_env(env, model.verbose), model.verbose)
    fits = has_spaces(model, vec_env.observation_space, vec_env.action_space)
    if not fits or _images(vec_env.observation_space) != _images(model.observation_space):
        raise ValueError(
            f"env has observation_space={vec_env.observation_space} and action_space={vec_env.action_space}, "
            f"the model {model.observation_space} and {model.action_space}"
        )
    normalized = unwrap_vec_normalize(vec_env)
    learned = model._learned_normalized or what_is_normalized(model._vec_normalize_env)
    if what_is_normalized(normalized) != learned:
        raise ValueError(
            f"env: VecNormalize is {what_is_normalized(normalized)}, but the model learned with {learned}: wrap env in "
            "the same way"
        )
    copy_statistics(model._vec_normalize_env, normalized)
    return vec_env


def _with_normalized_rewards(model: Any, env: VecEnv) -> VecEnv:
    """The critics were trained on the buffer's normalised rewards: ``VecNormalize`` scales new rewards in the same way."""
    if model.replay_buffer is None:
        model.set_dataset(_dataset_of(model))
    normalized = unwrap_vec_normalize(env)
    if normalized is None:
        env = normalized = VecNormalize(env, training=False, norm_obs=False, gamma=model.gamma)
    normalized.norm_reward, normalized.ret_rms = True, deepcopy(model.replay_buffer.return_rms)
    return env


def _images(space: spaces.Space) -> list[bool]:
    """Which observations a network treats as images: arrays of the same shape may be plain numbers to it."""
    return [is_image_space(part) for part in (space.spaces.values() if isinstance(space, spaces.Dict) else [space])]
