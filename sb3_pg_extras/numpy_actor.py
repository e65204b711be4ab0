"""Acting with small MLP policies in NumPy: at batch size one, PyTorch's overhead per call is most of a step's time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

ACTIVATIONS: dict[type[nn.Module], Callable[[np.ndarray], np.ndarray]] = {
    nn.Tanh: np.tanh,
    nn.ReLU: lambda x: np.maximum(x, 0.0),
}


class NumpyActor:
    """
    Draws actions as ``policy.forward`` does, from the same parameters: its arrays are views of the policy's tensors, so they
    follow every in-place update. It draws from NumPy's global generator.

    :param policy: A policy that :meth:`applies_to` accepts.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.layers: list[Any] = []
        for module in [*policy.mlp_extractor.policy_net, policy.action_net]:
            if isinstance(module, nn.Linear):
                self.layers.append((module.weight.detach().numpy().T, module.bias.detach().numpy()))
            else:
                self.layers.append(ACTIVATIONS[type(module)])
        self.log_std = policy.log_std.detach().numpy() if isinstance(policy.action_dist, DiagGaussianDistribution) else None
        self.action_shape = policy.action_space.shape or ()

    @staticmethod
    def applies_to(policy: ActorCriticPolicy) -> bool:
        """
        :param policy: Any actor-critic policy.
        :return: Whether it is SB3's own MLP policy on the CPU, for vectors, with tanh or ReLU layers and a Categorical or
            diagonal Gaussian distribution.
        """
        space = policy.observation_space
        return (
            type(policy) is ActorCriticPolicy
            and policy.device == th.device("cpu")
            and isinstance(space, spaces.Box)
            and not is_image_space(space)
            and type(policy.features_extractor) is FlattenExtractor
            and type(policy.mlp_extractor) is MlpExtractor
            and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
            and all(type(module) in (nn.Linear, *ACTIVATIONS) for module in policy.mlp_extractor.policy_net)
        )

    def action_net(self, obs: np.ndarray) -> np.ndarray:
        """
        :param obs: Observations of B states, (B, ...).
        :return: Logits or means, shape (B, K).
        """
        x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
        for layer in self.layers:
            x = x @ layer[0] + layer[1] if isinstance(layer, tuple) else layer(x)
        return x

    def __call__(self, obs: Any) -> np.ndarray:
        """
        :param obs: Observations of B states, (B, ...).
        :return: Actions before any clipping, (B, *action_space.shape).
        """
        x = self.action_net(obs)
        if self.log_std is None:
            # The largest of logits plus independent Gumbel noise is a draw from their softmax.
            return (x + np.random.gumbel(size=x.shape)).argmax(axis=1)
        actions = x + np.exp(self.log_std) * np.random.standard_normal(x.shape).astype(np.float32)
        return actions.reshape(-1, *self.action_shape)
