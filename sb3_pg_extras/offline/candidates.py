"""Policies that take the best of several candidate actions: BCQ's and BEAR's."""

from abc import abstractmethod
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_pg_extras.common.dicts import arrays_of
from sb3_pg_extras.offline.behavior_vae import BehaviorVAE
from sb3_pg_extras.offline.double_precision import DoublePrecision
from sb3_pg_extras.offline.policies import FinitePolicy, critic_inputs


class CandidatePolicy(FinitePolicy):
    """
    A policy with a behaviour VAE. It takes the candidate that its first critic values most; ``deterministic=True`` draws
    the candidates from noise that is fixed when the policy is made, and saved with it.

    In a class statement it comes before a policy of SB3, whose constructor makes the other networks.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule of all optimisers (an algorithm may set each one's own afterwards).
    :param vae_net_arch: Hidden layers of the VAE's encoder and decoder, ``[750, 750]`` by default.
    :param vae_latent_dim: Latent dimensions of the VAE, twice the action dimensions by default.
    :param n_action_samples: Candidate actions when acting.
    :param optimizer_class: The optimiser of all networks.
    :param optimizer_kwargs: Its arguments except the learning rate; ``fused=True`` for Adam by default, which is faster.
    :param kwargs: As in the policy of SB3.
    """

    behavior_vae: BehaviorVAE
    candidate_noise: th.Tensor
    critic: ContinuousCritic
    net_args: dict[str, Any]

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
        **kwargs: Any,
    ) -> None:
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"fused": True}
        kwargs |= {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.n_action_samples = n_action_samples
        self.vae_kwargs = self.net_args | {
            "net_arch": [750, 750] if vae_net_arch is None else vae_net_arch,
            "latent_dim": 2 * get_action_dim(action_space) if vae_latent_dim is None else vae_latent_dim,
        }
        self.behavior_vae = BehaviorVAE(**self._update_features_extractor(self.vae_kwargs)).to(self.device)
        self.behavior_vae.optimizer = self.optimizer_class(
            self.behavior_vae.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
        self.register_buffer("candidate_noise", th.randn(1, n_action_samples, self._noise_dim(), device=self.device))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Weights of a policy with more candidates: the first of its candidates stay; with fewer: this policy's own."""
        name, own = f"{prefix}candidate_noise", self.candidate_noise
        if name in state_dict and state_dict[name].shape[1] != own.shape[1]:
            saved = state_dict[name][:, : own.shape[1]]
            state_dict[name] = saved if saved.shape == own.shape else own
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _noise_dim(self) -> int:
        """:return: Dimensions of the noise behind a candidate, by default those of the VAE's latent."""
        return self.behavior_vae.latent_dim

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "vae_net_arch": self.vae_kwargs["net_arch"],
            "vae_latent_dim": self.vae_kwargs["latent_dim"],
            "n_action_samples": self.n_action_samples,
        }

    @abstractmethod
    def candidates(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, noise dimensions).
        :return: Candidate actions in [-1, 1], shape (B, n, A).
        """

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        n_states = arrays_of(observation)[0].shape[0]
        if not deterministic:
            return self._best(observation, th.randn(n_states, *self.candidate_noise.shape[1:], device=self.device))
        # Rounding depends on batch size, processor and runtime: it must not decide between candidates of nearly equal value.
        with DoublePrecision():
            action = self._best(observation, self.candidate_noise.expand(n_states, -1, -1))
        return action.float()

    def _best(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """:return: Of the candidates of each state the one that the first critic values most, (B, A)."""
        actions = self.candidates(obs, noise)
        values = self.critic.q_networks[0](critic_inputs(self.critic, obs, actions))
        # Not take_along_dim, which ONNX lacks.
        return actions.gather(1, values.argmax(dim=1, keepdim=True).expand(-1, -1, actions.shape[2])).squeeze(1)

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3, the VAE too."""
        super().set_training_mode(mode)
        # Called by SB3 before the VAE is made, too.
        if hasattr(self, "behavior_vae"):
            self.behavior_vae.set_training_mode(mode)
