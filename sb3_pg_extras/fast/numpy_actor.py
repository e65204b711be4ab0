"""Actors of small MLP policies in NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn

from sb3_pg_extras.fast.numpy_net import ACTIVATIONS, ONE, Dense, Net


def applies_to(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: Any actor-critic policy.
    :return: Whether this module can stand in for it: SB3's own policy, or a class that sets ``acts_in_numpy`` itself, on the
        CPU, for vectors or dicts of vectors, with layers that are known here and a Categorical or diagonal Gaussian
        distribution.
    """
    known = (nn.Linear, *ACTIVATIONS)
    heads = [policy.action_net, policy.value_net, *([policy.std_net] if getattr(policy, "std_net", None) else [])]
    return (
        # Not of its subclasses: they may compute something else.
        (type(policy) in (ActorCriticPolicy, MultiInputActorCriticPolicy) or "acts_in_numpy" in vars(type(policy)))
        and policy.device == th.device("cpu")
        and _is_flattened(policy.observation_space, (policy.pi_features_extractor, policy.vf_features_extractor))
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
        and all(type(m) in known for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net) for m in net)
        and all(type(head) is nn.Linear for head in heads)
        and all(p.requires_grad and p.dtype == th.float32 for p in policy.parameters())
    )


def _is_flattened(space: spaces.Space, extractors: Sequence[nn.Module]) -> bool:
    """:return: Whether the feature extractors only put the numbers of an observation in a row."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return all(
        # A CombinedExtractor has a CNN for what it is told are images, be they floats.
        type(extractor) is FlattenExtractor
        or (type(extractor) is CombinedExtractor and all(type(m) is nn.Flatten for m in extractor.extractors.values()))
        for extractor in extractors
    ) and all(isinstance(part, spaces.Box) and not is_image_space(part) for part in parts)


def flatten(obs: np.ndarray | dict[str, np.ndarray], space: spaces.Space) -> np.ndarray:
    """:return: Observations of B states as float32, shape (B, D); those of a dict in the order of its space."""
    if isinstance(obs, dict):
        assert isinstance(space, spaces.Dict)
        parts = [obs[key].reshape(len(obs[key]), -1) for key in space.spaces]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")
    return obs.reshape(len(obs), -1).astype(np.float32, copy=False)


class NumpyActor:
    """
    Draws actions as ``policy.forward`` does, and differentiates their log-probabilities.

    :param policy: A policy that :func:`applies_to` accepts.
    :param gradients: See :class:`Dense`; none for acting only.
    """

    def __init__(self, policy: ActorCriticPolicy, gradients: dict[th.Tensor, np.ndarray] | None = None) -> None:
        gradients = gradients or {}
        self.observation_space = policy.observation_space
        self.action_shape = policy.action_space.shape or ()
        self._make_room((0,))
        self.discrete = isinstance(policy.action_dist, CategoricalDistribution)
        std_net = getattr(policy, "std_net", None)
        log_std = None if self.discrete or std_net is not None else policy.log_std
        self.log_std = None if log_std is None else log_std.detach().numpy()
        self.log_std_gradients = gradients.get(log_std)  # type: ignore[arg-type]
        self.trunk = Net(list(policy.mlp_extractor.policy_net), gradients)
        self.head = Dense(policy.action_net, gradients)  # type: ignore[arg-type]
        self.std_head = None if std_net is None else Dense(std_net, gradients)
        self.std_min = getattr(policy, "std_min", 0.0)

    def __call__(self, obs: Any) -> np.ndarray:
        """
        :param obs: Observations of B states, (B, ...).
        :return: Actions before any clipping, (B, *action_space.shape).
        """
        self.states = flatten(obs, self.observation_space)
        latent = self.trunk.forward(self.states)
        output = self.head.forward(latent)  # logits or means, (B, K)
        if self.noise.shape != output.shape:
            self._make_room(output.shape)
        if self.discrete:
            output -= np.maximum.reduce(output, axis=1, keepdims=True)
            self.logits, self.odds = output, np.exp(output)
            # A draw as torch.multinomial makes it.
            self.noise_tensor.exponential_()
            self.actions = (self.odds / self.noise).argmax(axis=1)
            return self.actions
        if self.std_head is not None:
            self.raw_std = self.std_head.forward(latent)
            self.softplus = np.logaddexp(np.float32(0), self.raw_std)
            self.std = self.softplus + np.float32(self.std_min)
        else:
            assert self.log_std is not None
            self.std = np.exp(self.log_std)
        self.noise_tensor.normal_()
        return (output + self.std * self.noise).reshape(-1, *self.action_shape)

    def _make_room(self, shape: tuple[int, ...]) -> None:
        self.noise_tensor = th.empty(shape)
        self.noise = self.noise_tensor.numpy()
        self.rows = np.arange(shape[0])

    def backward(self, weights: np.ndarray | float, entropy_weights: np.ndarray | float | None) -> None:
        """
        The gradient of ``weight log pi(a|s) + entropy_weight H(pi(.|s))`` for the actions just drawn, summed over the states
        or (R = B) one by one.

        :param weights: shape (B, 1), or one for all.
        :param entropy_weights: shape (B, 1), or one for all, or None.
        """
        if self.discrete:
            total = np.add.reduce(self.odds, axis=1, keepdims=True)
            probs = self.odds / total
            gradient = np.negative(probs)
            gradient[self.rows, self.actions] += ONE
            gradient *= weights
            if entropy_weights is not None:
                log_probs = self.logits - np.log(total)
                entropy = -np.add.reduce(probs * log_probs, axis=1, keepdims=True)
                gradient -= entropy_weights * probs * (log_probs + entropy)
            self.trunk.backward(self.head.backward(gradient))
            return
        # With respect to the mean and to the log standard deviation.
        latent_gradient = self.head.backward(weights * self.noise / self.std)
        gradient = weights * (self.noise * self.noise - 1.0)
        if entropy_weights is not None:
            gradient += entropy_weights
        if self.std_head is not None:
            # The softplus's slope is exp(x - softplus(x)).
            gradient *= np.exp(self.raw_std - self.softplus) / self.std
            latent_gradient += self.std_head.backward(gradient)
        else:
            assert self.log_std_gradients is not None
            self.log_std_gradients[:] = gradient if len(self.log_std_gradients) > 1 else np.add.reduce(gradient, axis=0)
        self.trunk.backward(latent_gradient)
