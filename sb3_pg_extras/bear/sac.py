"""From offline to online and back: BEAR's actor and critics are SAC's."""

from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras.bear.policies import BEARPolicy
from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.layout import check_spaces, to_replay_buffer
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.sources import DatasetEnv

SelfBEAR = TypeVar("SelfBEAR", bound=OfflineAlgorithm)

# Arguments of policies: of the VAE and of acting, which SB3's own SAC policies lack; of gSDE, which BEAR's lacks; and those
# that leave the networks what they are.
BEAR_POLICY_KWARGS = {"vae_net_arch", "vae_latent_dim", "n_action_samples"}
SDE_POLICY_KWARGS = {"use_sde", "log_std_init", "use_expln", "clip_mean"}
OPTIMIZER_KWARGS = {"optimizer_class", "optimizer_kwargs"}
# SAC's own default. Nothing is used until it is filled.
DEFAULT_BUFFER_SIZE = 1_000_000


def to_sac(
    bear: Any,
    env: GymEnv | str | None,
    keep_dataset: bool,
    policy: str | type[SACPolicy] | None,
    **sac_kwargs: Any,
) -> SAC:
    """What :meth:`BEAR.to_sac` does."""
    if sac_kwargs.get("use_sde"):
        raise ValueError("use_sde=True: gSDE has other parameters than BEAR's actor. Leave it out")
    policy_kwargs = _optimizer_kwargs(sac_kwargs.pop("policy_kwargs", None), OPTIMIZER_KWARGS)
    vec_env = _online_env(bear, env)
    if bear.replay_buffer_kwargs.get("normalize_rewards"):
        vec_env = _with_normalized_rewards(bear, vec_env)
    dataset = _dataset_of(bear) if keep_dataset else None

    if policy is None:
        policy, networks = type(bear.policy), bear.policy_kwargs
    else:
        networks = {key: value for key, value in bear.policy_kwargs.items() if key not in BEAR_POLICY_KWARGS}
    extractor = {name: getattr(bear.policy, name) for name in ("features_extractor_class", "features_extractor_kwargs")}
    networks = {**networks, **extractor, **policy_kwargs}
    defaults: dict[str, Any] = {
        "learning_rate": bear.critic_learning_rate,
        "batch_size": bear.batch_size,
        "tau": bear.tau,
        "gamma": bear.gamma,
        "n_steps": bear.n_steps,
        "stats_window_size": bear._stats_window_size,
        "tensorboard_log": bear.tensorboard_log,
        "verbose": bear.verbose,
        "device": bear.device,
    }
    if dataset is not None:
        # There is something to learn from at once, and no need to act at random.
        defaults["learning_starts"] = 0
        steps = -(-len(dataset) // vec_env.num_envs) + sac_kwargs.pop("buffer_size", DEFAULT_BUFFER_SIZE) // vec_env.num_envs
        sac_kwargs["buffer_size"] = steps * vec_env.num_envs
    sac = SAC(policy, vec_env, policy_kwargs=networks, **defaults | sac_kwargs)
    own = sac.policy.state_dict()
    sac.policy.load_state_dict({name: value for name, value in bear.policy.state_dict().items() if name in own})
    if dataset is not None:
        assert sac.replay_buffer is not None
        to_replay_buffer(dataset, sac.replay_buffer)
    return sac


def from_sac(bear_class: type[SelfBEAR], sac: SAC, env: GymEnv | str | None, **bear_kwargs: Any) -> SelfBEAR:
    """What :meth:`BEAR.from_sac` does."""
    if not isinstance(sac, SAC):
        raise ValueError(f"sac_model is a {type(sac).__name__}: BEAR shares its networks with SB3's SAC only")
    if sac.use_sde:
        raise ValueError("sac_model was trained with use_sde=True: gSDE has other parameters than BEAR's actor")
    networks = {key: value for key, value in sac.policy_kwargs.items() if key not in SDE_POLICY_KWARGS}
    defaults: dict[str, Any] = {
        "critic_learning_rate": sac.learning_rate,
        "batch_size": sac.batch_size,
        "tau": sac.tau,
        "gamma": sac.gamma,
        "n_steps": sac.n_steps,
        "stats_window_size": sac._stats_window_size,
        "tensorboard_log": sac.tensorboard_log,
        "verbose": sac.verbose,
        "device": sac.device,
    }
    if isinstance(sac.policy, BEARPolicy):
        policy_class, changeable = type(sac.policy), OPTIMIZER_KWARGS
        defaults["n_action_samples"] = sac.policy.n_action_samples
        networks.pop("n_action_samples", None)
    else:
        policy_class, changeable = BEARPolicy, OPTIMIZER_KWARGS | BEAR_POLICY_KWARGS
        networks["features_extractor_class"] = sac.policy.features_extractor_class
    networks |= _optimizer_kwargs(bear_kwargs.pop("policy_kwargs", None), changeable)
    if bear_kwargs.get("dataset") is None:
        if sac.replay_buffer is None or sac.replay_buffer.size() == 0:
            raise DatasetError(
                "sac_model has an empty replay buffer, and SAC.load() never fills it: call "
                "sac_model.load_replay_buffer(path) first, or pass dataset="
            )
        bear_kwargs["dataset"] = load_dataset(sac.replay_buffer)
    bear = bear_class(policy_class, sac.get_env() if env is None else env, policy_kwargs=networks, **defaults | bear_kwargs)
    # A stock policy has no VAE: BEAR's new one stays. So does the noise where it is for another number of actions.
    state = bear.policy.state_dict()
    noise = state["candidate_noise"]
    state |= sac.policy.state_dict()
    if state["candidate_noise"].shape != noise.shape:
        state["candidate_noise"] = noise
    bear.policy.load_state_dict(state)
    return bear


def _optimizer_kwargs(policy_kwargs: dict[str, Any] | None, changeable: set[str]) -> dict[str, Any]:
    for name, value in (policy_kwargs or {}).items():
        if name not in changeable:
            raise ValueError(
                f"policy_kwargs {name}={value!r}: the networks are there already. What can be set is {sorted(changeable)}"
            )
    return policy_kwargs or {}


def _dataset_of(bear: Any) -> OfflineDataset:
    if bear.dataset is None:
        raise ValueError(
            "keep_dataset=True, but this BEAR has no dataset (arrays in memory are not saved with a model): "
            "pass dataset= to load(), call set_dataset(), or pass keep_dataset=False"
        )
    dataset = load_dataset(bear.dataset, bear.action_space)
    # Where only its path came with the model, the file may have changed.
    check_spaces(dataset, bear.observation_space, bear.action_space)
    return dataset


def _online_env(bear: Any, env: GymEnv | str | None) -> VecEnv:
    """The environment to go online in: checked, wrapped, and normalised as BEAR's observations were."""
    env = bear.env if env is None else env
    unwrapped = env.unwrapped if isinstance(env, VecEnv) else env
    first = unwrapped.envs[0].unwrapped if isinstance(unwrapped, DummyVecEnv) else unwrapped
    if env is None or isinstance(first, DatasetEnv):
        raise ValueError("env=None, and this BEAR was made or loaded without an environment: pass env= to go online")
    vec_env = SAC._wrap_env(maybe_make_env(env, bear.verbose), bear.verbose)
    if _layout(vec_env.observation_space) != _layout(bear.observation_space):
        raise ValueError(f"observation_space of env is {vec_env.observation_space}, of BEAR {bear.observation_space}")
    ours, theirs = bear.action_space, vec_env.action_space
    assert isinstance(ours, spaces.Box)
    if (
        not isinstance(theirs, spaces.Box)
        or ours.shape != theirs.shape
        or not (np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high))
    ):
        raise ValueError(f"action_space of env is {theirs}, of BEAR {ours}")
    normalized, normalized_by_bear = unwrap_vec_normalize(vec_env), bear._vec_normalize_env
    if bear.env is not None and _normalizes(normalized) != _normalizes(normalized_by_bear):
        raise ValueError(
            f"env: VecNormalize (norm_obs, norm_reward) is {_normalizes(normalized)}, but BEAR learned with "
            f"{_normalizes(normalized_by_bear)}: wrap env as BEAR's was"
        )
    if normalized is not None and normalized_by_bear is not None and normalized is not normalized_by_bear:
        normalized.ret_rms = deepcopy(normalized_by_bear.ret_rms)
        if normalized.norm_obs:
            normalized.obs_rms = deepcopy(normalized_by_bear.obs_rms)
    return vec_env


def _with_normalized_rewards(bear: Any, env: VecEnv) -> VecEnv:
    """BEAR's critics are worth what its buffer's normalised rewards sum up to: SAC gets the same from ``VecNormalize``."""
    if bear.replay_buffer is None:
        bear.set_dataset(_dataset_of(bear))
    normalized = unwrap_vec_normalize(env)
    if normalized is None:
        env = normalized = VecNormalize(env, training=False, norm_obs=False, gamma=bear.gamma)
    normalized.norm_reward, normalized.ret_rms = True, deepcopy(bear.replay_buffer.return_rms)
    return env


def _normalizes(env: VecNormalize | None) -> tuple[bool, bool]:
    return (False, False) if env is None else (env.norm_obs, env.norm_reward)


def _layout(space: spaces.Space) -> Any:
    """What has to be equal for the same network to read two spaces; bounds may differ."""
    if isinstance(space, spaces.Dict):
        return {key: _layout(value) for key, value in space.spaces.items()}
    return ("Box", space.shape, is_image_space(space)) if isinstance(space, spaces.Box) else space
