"""From offline to online and back: BEAR's actor and critics are SAC's."""

from copy import deepcopy
from typing import Any, TypeVar

from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras.bear.policies import BEARPolicy
from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.layout import check_spaces, has_spaces, to_replay_buffer
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
    env: GymEnv | str | None = None,
    keep_dataset: bool = True,
    policy: str | type[SACPolicy] | None = None,
    **sac_kwargs: Any,
) -> SAC:
    """
    Fine-tune online: a stock SB3 ``SAC`` that starts from BEAR's actor, critics and target critics.

    ``gamma``, ``tau`` and ``batch_size`` are BEAR's, SAC's one learning rate is that of BEAR's critics; optimisers
    start anew. Where BEAR learned with ``VecNormalize``, the one around ``env`` gets its statistics.

    :param env: The environment: an id, an Env, or a VecEnv of any number; None for BEAR's own.
    :param keep_dataset: Whether BEAR's dataset is put into SAC's replay buffer. ``learning_starts`` is then 0 by
        default, and ``buffer_size`` (1,000,000 by default) is the room beside the dataset.
    :param policy: None keeps BEAR's policy class, so that SAC acts as BEAR does, by the best of its
        ``n_action_samples`` candidates. ``"MlpPolicy"`` (``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class) is SB3's
        own with the same actor and critics; it acts by the actor's mean, and SB3 loads it without this package.
    :param sac_kwargs: Other arguments of ``SAC``; of ``policy_kwargs`` only those of the optimiser.
    :return: The SAC model.
    :raises ValueError: when ``env`` is missing or does not fit, when there is no dataset to keep, or for arguments that
        would change the networks.
    """
    if sac_kwargs.get("use_sde"):
        raise ValueError("use_sde=True: gSDE has other parameters than BEAR's actor. Leave it out")
    policy_kwargs = _optimizer_kwargs(sac_kwargs.pop("policy_kwargs", None), OPTIMIZER_KWARGS)
    vec_env = _online_env(bear, env)
    if bear.replay_buffer_kwargs.get("normalize_rewards"):
        vec_env = _with_normalized_rewards(bear, vec_env)
    dataset = _dataset_of(bear) if keep_dataset else None

    networks = bear._full_policy_kwargs()
    if policy is None:
        policy = type(bear.policy)
    else:
        networks = {key: value for key, value in networks.items() if key not in BEAR_POLICY_KWARGS}
    networks = {"features_extractor_class": bear.policy.features_extractor_class, **networks, **policy_kwargs}
    defaults = _shared(bear) | {"learning_rate": bear.critic_learning_rate}
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


def from_sac(bear_class: type[SelfBEAR], sac_model: SAC, env: GymEnv | str | None = None, **bear_kwargs: Any) -> SelfBEAR:
    """
    Learn offline from an SB3 ``SAC`` model: from its actor, critics, target critics, and its replay buffer.

    ``gamma``, ``tau``, ``batch_size`` and ``policy_kwargs`` are SAC's, its learning rate is that of BEAR's critics.
    The behaviour VAE is new, unless the model came from :meth:`to_sac`.

    :param sac_model: The model, without gSDE.
    :param env: As BEAR's; None for the model's own.
    :param bear_kwargs: Other arguments of BEAR; of ``policy_kwargs`` only those of the optimiser and of the VAE.
    :return: The BEAR model, not trained yet.
    :raises ValueError: for a model whose networks BEAR cannot take, or arguments that would change them.
    :raises DatasetError: when the replay buffer is empty, as it is after ``SAC.load``, and no ``dataset`` is passed.
    """
    if not isinstance(sac_model, SAC):
        raise ValueError(f"sac_model is a {type(sac_model).__name__}: BEAR shares its networks with SB3's SAC only")
    if sac_model.use_sde:
        raise ValueError("sac_model was trained with use_sde=True: gSDE has other parameters than BEAR's actor")
    networks = {key: value for key, value in sac_model.policy_kwargs.items() if key not in SDE_POLICY_KWARGS}
    defaults = _shared(sac_model) | {"critic_learning_rate": sac_model.learning_rate}
    if isinstance(sac_model.policy, BEARPolicy):
        policy_class, changeable = type(sac_model.policy), OPTIMIZER_KWARGS
        defaults["n_action_samples"] = sac_model.policy.n_action_samples
        networks.pop("n_action_samples", None)
    else:
        policy_class, changeable = BEARPolicy, OPTIMIZER_KWARGS | BEAR_POLICY_KWARGS
        networks["features_extractor_class"] = sac_model.policy.features_extractor_class
    networks |= _optimizer_kwargs(bear_kwargs.pop("policy_kwargs", None), changeable)
    if bear_kwargs.get("dataset") is None:
        if sac_model.replay_buffer is None or sac_model.replay_buffer.size() == 0:
            raise DatasetError(
                "sac_model has an empty replay buffer, and SAC.load() never fills it: call "
                "sac_model.load_replay_buffer(path) first, or pass dataset="
            )
        bear_kwargs["dataset"] = load_dataset(sac_model.replay_buffer)
    bear = bear_class(
        policy_class, sac_model.get_env() if env is None else env, policy_kwargs=networks, **defaults | bear_kwargs
    )
    # A stock policy has no VAE: BEAR's new one stays. So does the noise where it is for another number of actions.
    state = bear.policy.state_dict()
    noise = state["candidate_noise"]
    state |= sac_model.policy.state_dict()
    if state["candidate_noise"].shape != noise.shape:
        state["candidate_noise"] = noise
    bear.policy.load_state_dict(state)
    return bear


def _shared(model: Any) -> dict[str, Any]:
    """The constructor arguments that mean the same for both algorithms."""
    names = ("batch_size", "tau", "gamma", "n_steps", "tensorboard_log", "verbose", "device")
    return {name: getattr(model, name) for name in names} | {"stats_window_size": model._stats_window_size}


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
    fits = has_spaces(bear, vec_env.observation_space, vec_env.action_space)
    if not fits or _images(vec_env.observation_space) != _images(bear.observation_space):
        raise ValueError(
            f"env has observation_space={vec_env.observation_space} and action_space={vec_env.action_space}, "
            f"BEAR {bear.observation_space} and {bear.action_space}"
        )
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


def _images(space: spaces.Space) -> list[bool]:
    """Which observations a network reads as images: those of the same shape may be vectors to it."""
    return [is_image_space(part) for part in (space.spaces.values() if isinstance(space, spaces.Dict) else [space])]


def _normalizes(env: VecNormalize | None) -> tuple[bool, bool]:
    return (False, False) if env is None else (env.norm_obs, env.norm_reward)
