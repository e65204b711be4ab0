"""BEAR's networks: SB3's SAC actor and critics, and the behaviour VAE."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras.offline.candidates import CandidatePolicy


class BEARPolicy(CandidatePolicy, SACPolicy):
    """
    SB3's SAC actor and critics (so that weights move freely between BEAR and SAC), and a behaviour VAE.

    It acts by drawing ``n_action_samples`` actions from the actor and taking the one that the first critic values most.
    ``deterministic=True`` draws them with noise that is fixed when the policy is made and saved with it.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule of all optimisers (BEAR sets each one's own afterwards).
    :param vae_net_arch: Hidden layers of the VAE's encoder and decoder, ``[750, 750]`` by default.
    :param vae_latent_dim: Latent dimensions of the VAE, twice the action dimensions by default.
    :param n_action_samples: Candidate actions when acting.
    :param optimizer_class: The optimiser of all networks.
    :param optimizer_kwargs: Its arguments but for the learning rate; ``fused=True`` for Adam by default, which is faster.
    :param sac_kwargs: As in SB3's ``SACPolicy``: ``net_arch``, ``activation_fn``, ``n_critics``,
        ``features_extractor_class``, ...
    :raises ValueError: for ``use_sde``: gSDE explores an environment, which offline learning never does.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        vae_net_arch: list[int] | None = None,
        vae_latent_dim: int | None = None,
        n_action_samples: int = 100,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **sac_kwargs: Any,
    ) -> None:
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"fused": True}
        sac_kwargs |= {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        if sac_kwargs.get("use_sde"):
            raise ValueError("policy_kwargs use_sde=True: gSDE explores an environment, which BEAR never does. Leave it out")
        super().__init__(observation_space, action_space, lr_schedule, **sac_kwargs)
        noise_dim = get_action_dim(action_space)
        self._add_candidates(lr_schedule, vae_net_arch, vae_latent_dim, n_action_samples, noise_dim)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        # The actor's gSDE settings, which this policy refuses.
        for name in ("use_sde", "log_std_init", "use_expln", "clip_mean"):
            data.pop(name)
        return data

    def raw_actions(self, obs: PyTorchObs, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample the actor: ``mean(s) + std(s) * noise``.

        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, A), or (1, n, A) for the same in all states.
        :return: Actions before the tanh, shape (B, n, A); mean and log standard deviation of the Gaussian, (B, A).
        """
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        mean, log_std = mean.float(), log_std.float()
        return mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise, mean, log_std

    def candidates(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, A).
        :return: Samples of the actor, in [-1, 1], shape (B, n, A).
        """
        return th.tanh(self.raw_actions(obs, noise)[0])


class CnnPolicy(BEARPolicy):
    """:class:`BEARPolicy` for images, with SB3's NatureCNN."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(BEARPolicy):
    """:class:`BEARPolicy` for Dict observations, with SB3's CombinedExtractor."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = BEARPolicy
