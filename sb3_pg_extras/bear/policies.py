"""BEAR's networks: SB3's SAC actor and critics, and the behaviour VAE."""

from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac import policies
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras.offline.candidates import CandidatePolicy


class BEARPolicy(CandidatePolicy, SACPolicy):
    """
    SB3's SAC actor and critics (so that weights move freely between BEAR and SAC), and a behaviour VAE.

    To act, it draws ``n_action_samples`` actions from the actor and takes the one that the first critic values most.

    :param args: As in :class:`~sb3_pg_extras.offline.candidates.CandidatePolicy`: the spaces, the schedule, ...
    :param vae_net_arch: Likewise, but ``[256, 256]`` by default.
    :param kwargs: Likewise, and as in SB3's ``SACPolicy``: ``net_arch``, ``n_critics``, ``features_extractor_class``, ...
    :raises ValueError: for ``use_sde``: gSDE explores an environment, which offline learning never does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("use_sde"):
            raise ValueError("policy_kwargs use_sde=True: gSDE explores an environment, which BEAR never does. Leave it out")
        if kwargs.get("vae_net_arch") is None:
            kwargs["vae_net_arch"] = [256, 256]
        super().__init__(*args, **kwargs)

    def _noise_dim(self) -> int:
        return get_action_dim(self.action_space)

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


class CnnPolicy(BEARPolicy, policies.CnnPolicy):
    """:class:`BEARPolicy` for images, with SB3's NatureCNN."""


class MultiInputPolicy(BEARPolicy, policies.MultiInputPolicy):
    """:class:`BEARPolicy` for Dict observations, with SB3's CombinedExtractor."""


MlpPolicy = BEARPolicy
