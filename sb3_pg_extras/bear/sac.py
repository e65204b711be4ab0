"""From offline to online and back: BEAR's actor and critics are SAC's."""

from copy import deepcopy
from typing import Any, TypeVar

from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras.bear.policies import BEARPolicy
from sb3_pg_extras.datasets import DatasetError, load_dataset
from sb3_pg_extras.offline.normalization import copy_statistics, what_is_normalized
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.online import OPTIMIZER_KWARGS, checked_policy_kwargs, go_online, shared_arguments

SelfBEAR = TypeVar("SelfBEAR", bound=OfflineAlgorithm)

# Arguments of policies: those of the VAE and of acting, which SB3's SAC policies lack; those of gSDE, which BEAR's lacks.
BEAR_POLICY_KWARGS = {"vae_net_arch", "vae_latent_dim", "n_action_samples"}
SDE_POLICY_KWARGS = {"use_sde", "log_std_init", "use_expln", "clip_mean"}


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
    are new. Where BEAR learned with ``VecNormalize``, the one around ``env`` gets its statistics.

    :param env: The environment: an id, an Env, or a VecEnv of any number; None for BEAR's own.
    :param keep_dataset: Whether BEAR's dataset is put into SAC's replay buffer. ``learning_starts`` is then 0 by
        default, and ``buffer_size`` (1,000,000 by default) is the room for new transitions.
    :param policy: None keeps BEAR's policy class: SAC acts as BEAR does and takes the best of ``n_action_samples``
        candidates. ``"MlpPolicy"`` (``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class) is SB3's own with the same actor
        and critics; it takes the actor's mean, and SB3 loads it without this package, unless ``normalize_observations``
        was on (it is by default).
    :param sac_kwargs: Other arguments of ``SAC``; of ``policy_kwargs`` only those of the optimiser.
    :return: The SAC model.
    :raises ValueError: when ``env`` is missing or does not fit, when there is no dataset to keep, or for arguments that
        would change the networks.
    """
    if sac_kwargs.get("use_sde"):
        raise ValueError("use_sde=True: gSDE has other parameters than BEAR's actor. Leave it out")
    networks = bear._full_policy_kwargs()
    if policy is None:
        policy = type(bear.policy)
    else:
        networks = {key: value for key, value in networks.items() if key not in BEAR_POLICY_KWARGS}
    sac_kwargs = {"learning_rate": bear.critic_learning_rate} | sac_kwargs
    return go_online(bear, SAC, policy, networks, env, keep_dataset, sac_kwargs)


def from_sac(bear_class: type[SelfBEAR], sac_model: SAC, env: GymEnv | str | None = None, **bear_kwargs: Any) -> SelfBEAR:
    """
    Learn offline from an SB3 ``SAC`` model: from its actor, critics, target critics, and its replay buffer.

    ``gamma``, ``tau``, ``batch_size`` and ``policy_kwargs`` are SAC's, its learning rate is that of BEAR's critics.
    The behaviour VAE is new, unless the model came from :meth:`to_sac`. Where SAC learned with ``VecNormalize``, BEAR keeps
    a copy of its statistics.

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
    defaults = shared_arguments(sac_model) | {"critic_learning_rate": sac_model.learning_rate}
    # The networks are SAC's, and normalise if its own do.
    defaults["normalize_observations"] = False
    if isinstance(sac_model.policy, BEARPolicy):
        policy_class, changeable = type(sac_model.policy), OPTIMIZER_KWARGS
        defaults["n_action_samples"] = sac_model.policy.n_action_samples
        networks.pop("n_action_samples", None)
    else:
        policy_class, changeable = BEARPolicy, OPTIMIZER_KWARGS | BEAR_POLICY_KWARGS
        networks["features_extractor_class"] = sac_model.policy.features_extractor_class
    networks |= checked_policy_kwargs(bear_kwargs.pop("policy_kwargs", None), changeable)
    if bear_kwargs.get("dataset") is None:
        if sac_model.replay_buffer is None or sac_model.replay_buffer.size() == 0:
            raise DatasetError(
                "sac_model has an empty replay buffer, and SAC.load() never fills it: call "
                "sac_model.load_replay_buffer(path) first, or pass dataset="
            )
        bear_kwargs["dataset"] = load_dataset(sac_model.replay_buffer)
    normalize, env = sac_model.get_vec_normalize_env(), sac_model.get_env() if env is None else env
    if normalize is not None and env is normalize:
        # BEAR freezes its own; SAC's goes on.
        env = deepcopy(normalize)
        env.set_venv(normalize.venv)
    bear = bear_class(policy_class, env, policy_kwargs=networks, **defaults | bear_kwargs)
    # A stock policy has no VAE: BEAR's new one stays.
    bear.policy.load_state_dict(bear.policy.state_dict() | sac_model.policy.state_dict())
    if normalize is not None:
        # The networks have learned with these statistics, not the dataset's.
        bear._learned_normalized = what_is_normalized(normalize)
        own = bear.get_vec_normalize_env()
        copy_statistics(normalize, own)
        if own is not None:
            own.training = False
    return bear
