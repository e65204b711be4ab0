"""BCQ's networks: a perturbation of actions, SB3's critics, targets of both, and the behaviour VAE."""

from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.td3 import policies
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_pg_extras.offline.candidates import CandidatePolicy


class Perturbation(Actor):
    """
    SB3's TD3 actor as a function of state and action: ``a + xi(s, a)``, each dimension of xi within +-Phi (``Actor`` in the
    authors' ``BCQ.py``).

    :param max_perturbation: Phi.
    :param kwargs: As in SB3's ``Actor``.
    """

    def __init__(self, max_perturbation: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_perturbation = max_perturbation
        action_dim = get_action_dim(self.action_space)
        layers = create_mlp(
            self.features_dim + action_dim, action_dim, self.net_arch, self.activation_fn, squash_output=True
        )
        self.mu = nn.Sequential(*layers)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"max_perturbation": self.max_perturbation}

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:  # type: ignore[override]
        """
        :param obs: Observations of B states.
        :param actions: Actions in [-1, 1], shape (B, n, A).
        :return: The same, perturbed, in [-1, 1].
        """
        features = self.extract_features(obs, self.features_extractor)
        features = features.unsqueeze(1).expand(-1, actions.shape[1], -1)
        perturbation = self.mu(th.cat([features, actions], dim=2)).float()
        return (actions + self.max_perturbation * perturbation).clamp(-1.0, 1.0)


class BCQPolicy(CandidatePolicy, TD3Policy):
    """
    SB3's TD3 policy whose actor perturbs the actions of a behaviour VAE; it acts as
    :class:`~sb3_pg_extras.offline.candidates.CandidatePolicy` does.

    :param max_perturbation: Phi, how far each dimension of an action in [-1, 1] may be moved.
    :param kwargs: As in ``CandidatePolicy``, and in SB3's ``TD3Policy``: ``net_arch``, ``n_critics``, ...
    """

    actor: Perturbation
    actor_target: Perturbation

    def __init__(self, *args: Any, max_perturbation: float = 0.05, **kwargs: Any) -> None:
        self.max_perturbation = max_perturbation
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"max_perturbation": self.max_perturbation}

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Perturbation:
        """:return: The network that perturbs actions."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return Perturbation(self.max_perturbation, **kwargs).to(self.device)

    def behavior_actions(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations of B states.
        :param noise: Standard normal noise of the latent, shape (B, n, L).
        :return: The VAE's actions in [-1, 1], shape (B, n, A), without gradient.
        """
        with th.no_grad():
            return th.tanh(self.behavior_vae.raw_actions(obs, noise))

    def candidates(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations of B states.
        :param noise: Standard normal noise of the latent, shape (B, n, L).
        :return: The VAE's actions, perturbed, in [-1, 1], shape (B, n, A).
        """
        return self.actor(obs, self.behavior_actions(obs, noise))


class CnnPolicy(BCQPolicy, policies.CnnPolicy):
    """:class:`BCQPolicy` for images, with SB3's NatureCNN."""


class MultiInputPolicy(BCQPolicy, policies.MultiInputPolicy):
    """:class:`BCQPolicy` for Dict observations, with SB3's CombinedExtractor."""


MlpPolicy = BCQPolicy
