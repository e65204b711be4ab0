"""A model of the behaviour that generated the data: BCQ and BEAR stay close to it."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_pg_extras.common.dicts import arrays_of
from sb3_pg_extras.offline.policies import FinitePolicy

# Bounds of the latent's log standard deviation, and of the latents that samples are decoded from (VAE in BEAR's algos.py).
LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX = -4.0, 15.0
LATENT_CLIP = 0.5


class BehaviorVAE(FinitePolicy):
    """
    Conditional VAE of the dataset's actions given the observation (BCQ, Fujimoto et al. 2019; ``VAE`` in BEAR's
    ``algos.py``). It is an SB3 policy too: acting with it is behaviour cloning.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param net_arch: Hidden layers of the encoder and of the decoder.
    :param features_extractor: Network that extracts features from observations, its own.
    :param features_dim: Number of features.
    :param latent_dim: Latent dimensions, L.
    :param activation_fn: Activation function.
    :param normalize_images: Whether to divide images by 255.
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        latent_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        action_dim = get_action_dim(action_space)
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.latent_dim = latent_dim
        self.activation_fn = activation_fn
        self.encoder = nn.Sequential(*create_mlp(features_dim + action_dim, 2 * latent_dim, net_arch, activation_fn))
        self.decoder = nn.Sequential(*create_mlp(features_dim + latent_dim, action_dim, net_arch, activation_fn))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("net_arch", "features_extractor", "features_dim", "latent_dim", "activation_fn")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def forward(self, obs: PyTorchObs, actions: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Encode actions and decode them again.

        :param obs: Observations of B states.
        :param actions: Actions in [-1, 1], shape (B, A).
        :param noise: Standard normal noise of the latent, shape (B, L).
        :return: Reconstructed actions in [-1, 1], shape (B, A); mean and log standard deviation of the latent, (B, L).
        """
        features = self.extract_features(obs, self.features_extractor)
        mean, log_std = self.encoder(th.cat([features, actions], dim=1)).float().chunk(2, dim=1)
        log_std = log_std.clamp(LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX)
        latents = mean + log_std.exp() * noise
        return th.tanh(self.decoder(th.cat([features, latents], dim=1)).float()), mean, log_std

    def raw_actions(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        Sample the behaviour: decode latents that are clipped to +-0.5, where the decoder has seen most data.

        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, L).
        :return: Actions before the tanh, shape (B, n, A).
        """
        features = self.extract_features(obs, self.features_extractor)
        features = features.unsqueeze(1).expand(-1, noise.shape[1], -1)
        return self.decoder(th.cat([features, noise.clamp(-LATENT_CLIP, LATENT_CLIP)], dim=2)).float()

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        batch_size = len(arrays_of(observation)[0])
        shape = (batch_size, 1, self.latent_dim)
        noise = th.zeros(shape, device=self.device) if deterministic else th.randn(shape, device=self.device)
        return th.tanh(self.raw_actions(observation, noise)).squeeze(1)
