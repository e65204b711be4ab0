"""
Actors of small MLP policies in NumPy.

They draw from PyTorch's generator, in the order that PyTorch's distributions do: the same seed gives the same actions, up to
rounding.

A policy class may say ``acts_in_numpy = True`` in its own body (it is not inherited). It then computes what SB3's
``ActorCriticPolicy`` does, except for layer norms without parameters and, where it has a ``std_net``, the standard deviation
``softplus(std_net(latent)) + std_min``.
"""

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn

from sb3_pg_extras.fast.numpy_net import LAYERS, ONE, ZERO, Dense, Net


class NumpyActor:
    """
    Draws actions as ``policy.forward`` does, and differentiates their log-probabilities.

    :param policy: A policy that :meth:`applies_to` accepts.
    :param gradients: As for ``numpy_net.Dense``; None for acting only.
    """

    @staticmethod
    def applies_to(policy: ActorCriticPolicy) -> bool:
        """
        :param policy: Any actor-critic policy.
        :return: Whether NumPy can stand in for its networks: SB3's own policy, or a class that says so, on the CPU, for
            vectors or dicts of vectors, with known layers, without hooks, and with a Categorical or diagonal Gaussian
            distribution.
        """
        cls, heads = type(policy), [policy.action_net, policy.value_net, getattr(policy, "std_net", None)]
        return (
            # Subclasses may compute something else.
            (cls in (ActorCriticPolicy, MultiInputActorCriticPolicy) or vars(cls).get("acts_in_numpy", False))
            and policy.device == th.device("cpu")
            and _is_vector(policy.observation_space)
            and all(_only_flattens(extractor) for extractor in (policy.pi_features_extractor, policy.vf_features_extractor))
            and type(policy.mlp_extractor) is MlpExtractor
            and all(type(m) in LAYERS for m in (*policy.mlp_extractor.policy_net, *policy.mlp_extractor.value_net))
            and all(type(head) is nn.Linear for head in heads if head is not None)
            and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
            and all(p.requires_grad and p.dtype == th.float32 and not p._backward_hooks for p in policy.parameters())
            and not any(_is_changed(module) for module in policy.modules())
        )

    def __init__(self, policy: ActorCriticPolicy, gradients: dict[th.Tensor, np.ndarray] | None = None) -> None:
        gradients = gradients or {}
        self.weight = policy.action_net.weight
        self.pointer = self.weight.data_ptr()  # type: ignore[operator]
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
        self.std_min = np.float32(getattr(policy, "std_min", 0.0))

    def is_current(self) -> bool:
        """:return: Whether the policy's parameters still lie in the memory that is read here: one stands for all."""
        return self.weight.data_ptr() == self.pointer  # type: ignore[operator]

    def __call__(self, obs: Any) -> np.ndarray:
        """
        :param obs: Observations of B states, (B, ...).
        :return: Actions before any clipping, (B, *action_space.shape).
        :raises ValueError: for logits that are not finite, as PyTorch's distributions do.
        """
        self.states = flatten(obs, self.observation_space)
        latent = self.trunk.forward(self.states)
        output = self.head.forward(latent)  # logits or means, (B, K)
        if self.noise.shape != output.shape:
            self._make_room(output.shape)
        if self.discrete:
            # The sum is not finite if one of them is not, and is faster to check.
            if not math.isfinite(sum(output.ravel().tolist())):
                raise ValueError(f"logits not finite: {output}")
            output -= np.maximum.reduce(output, axis=1, keepdims=True)
            self.logits, self.odds = output, np.exp(output)
            # A draw as torch.multinomial makes it.
            self.noise_tensor.exponential_()
            self.actions = (self.odds / self.noise).argmax(axis=1)
            return self.actions
        if self.std_head is not None:
            self.raw_std = self.std_head.forward(latent)
            self.softplus = np.logaddexp(ZERO, self.raw_std)
            self.std = self.softplus + self.std_min
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


def flatten(obs: np.ndarray | dict[str, np.ndarray], space: spaces.Space) -> np.ndarray:
    """
    :param obs: Observations of B states, shape (B, ...), or a dict of those.
    :param space: Their space, whose order the parts of a dict take.
    :return: float32, shape (B, D).
    """
    if isinstance(obs, dict):
        assert isinstance(space, spaces.Dict)
        parts = [obs[key].reshape(len(obs[key]), -1) for key in space.spaces]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")
    return obs.reshape(len(obs), -1).astype(np.float32, copy=False)


def _is_changed(module: nn.Module) -> bool:
    """:return: Whether hooks, or a ``forward`` of this one object, change what the module computes."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _is_vector(space: spaces.Space) -> bool:
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return all(isinstance(part, spaces.Box) and not is_image_space(part) for part in parts)


def _only_flattens(extractor: nn.Module) -> bool:
    if type(extractor) is CombinedExtractor:
        # It has a CNN for any space that looks like an image, even of floats.
        return all(type(part) is nn.Flatten for part in extractor.extractors.values())
    return type(extractor) is FlattenExtractor
