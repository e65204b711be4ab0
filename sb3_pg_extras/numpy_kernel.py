"""
Small MLP actor-critics in NumPy: at batch size one, PyTorch's overhead per call is most of a step's time.

Everything here works on the memory of the policy's own tensors and of its optimisers' states, so that saving, predicting
and callbacks see an ordinary SB3 model at all times. It draws from PyTorch's generator, in the order that PyTorch's
distributions do: with the same seed the torch path takes the same actions and makes the same updates, up to rounding.

Letters in shapes: B states (one per environment), R rows of gradients (1, or one per environment with traces), P parameters.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn

from sb3_pg_extras.optimizers import ObGD
from sb3_pg_extras.policies import STD_MIN, StreamPolicy

# NumPy takes a scalar of the array's own type faster than a Python number.
ZERO, ONE = np.float32(0), np.float32(1)

# A layer keeps what its forward pass was given or returned; its backward pass may overwrite the gradient it is given.


class Dense:
    """
    A linear layer.

    :param linear: The module whose parameters it reads.
    :param gradients: Where its parameters' gradients go, by parameter, shape (R, *p.shape).
    """

    def __init__(self, linear: nn.Linear, gradients: dict[th.Tensor, np.ndarray]) -> None:
        self.weight, self.bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
        self.weight_t = self.weight.T
        self.weight_gradients, self.bias_gradients = gradients.get(linear.weight), gradients.get(linear.bias)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        y = np.dot(x, self.weight_t)
        y += self.bias
        return y

    def learn(self, gradient: np.ndarray) -> None:
        """Write the parameters' gradients, with respect to the output's."""
        assert self.weight_gradients is not None and self.bias_gradients is not None
        x = self.x[: len(gradient)]
        if len(self.weight_gradients) == 1:
            np.dot(gradient.T, x, out=self.weight_gradients[0])
            np.add.reduce(gradient, axis=0, out=self.bias_gradients[0])
        else:
            np.multiply(gradient[:, :, None], x[:, None, :], out=self.weight_gradients)
            self.bias_gradients[:] = gradient

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        self.learn(gradient)
        return np.dot(gradient, self.weight)


class Tanh:
    def __init__(self, module: nn.Tanh) -> None:
        pass

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = np.tanh(x)
        return self.y

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        y = self.y[: len(gradient)]
        slope = y * y
        np.subtract(ONE, slope, out=slope)
        gradient *= slope
        return gradient


class ReLU:
    def __init__(self, module: nn.ReLU) -> None:
        pass

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = np.maximum(x, ZERO)
        return self.y

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        gradient *= self.y[: len(gradient)] > ZERO
        return gradient


class LeakyReLU:
    def __init__(self, module: nn.LeakyReLU) -> None:
        self.slope = np.float32(module.negative_slope)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.slopes = np.where(x > ZERO, ONE, self.slope)
        return x * self.slopes

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        gradient *= self.slopes[: len(gradient)]
        return gradient


class ELU:
    def __init__(self, module: nn.ELU) -> None:
        self.alpha = np.float32(module.alpha)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x, self.negative = x, self.alpha * np.expm1(np.minimum(x, ZERO))
        return np.where(x > ZERO, x, self.negative)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        n = len(gradient)
        gradient *= np.where(self.x[:n] > ZERO, ONE, self.negative[:n] + self.alpha)
        return gradient


class LayerNorm:
    """Layer normalisation over the last axis, without parameters."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self.size = module.normalized_shape[-1]
        self.eps = np.float32(module.eps)
        self.averaging = np.full(self.size, 1.0 / self.size, dtype=np.float32)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = x - np.dot(x, self.averaging)[:, None]
        variance = np.dot(x * x, self.averaging)
        variance += self.eps
        self.std = np.sqrt(variance, out=variance)[:, None]
        x /= self.std
        self.y = x
        return x

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        n = len(gradient)
        y = self.y[:n]
        along = np.dot(gradient * y, self.averaging)[:, None]
        gradient -= np.dot(gradient, self.averaging)[:, None]
        gradient -= y * along
        gradient /= self.std[:n]
        return gradient


ACTIVATIONS: dict[type[nn.Module], Any] = {
    nn.Tanh: Tanh, nn.ReLU: ReLU, nn.LeakyReLU: LeakyReLU, nn.ELU: ELU, nn.LayerNorm: LayerNorm
}  # fmt: skip


class Net:
    """
    Layers in a row. A forward pass may hold more states than the backward pass, which takes the first ones.

    :param modules: Linear layers, activations and layer norms; a linear one first.
    :param gradients: See :class:`Dense`.
    """

    def __init__(self, modules: Sequence[nn.Module], gradients: dict[th.Tensor, np.ndarray]) -> None:
        self.layers: list[Any] = [
            Dense(module, gradients) if isinstance(module, nn.Linear) else ACTIVATIONS[type(module)](module)
            for module in modules
        ]

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, gradient: np.ndarray) -> None:
        for layer in self.layers[:0:-1]:
            gradient = layer.backward(gradient)
        # Nothing is behind the first layer, so nothing needs the gradient of its input.
        for layer in self.layers[:1]:
            layer.learn(gradient)


def applies_to(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: Any actor-critic policy.
    :return: Whether this module can stand in for it: SB3's own policy or StreamPolicy on the CPU, for vectors or dicts of
        vectors, with layers that are known here and a Categorical or diagonal Gaussian distribution.
    """
    known = (nn.Linear, *ACTIVATIONS)
    heads = [policy.action_net, policy.value_net, *([policy.std_net] if getattr(policy, "std_net", None) else [])]
    return (
        type(policy) in (ActorCriticPolicy, MultiInputActorCriticPolicy, StreamPolicy)
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
            self.std = self.softplus + np.float32(STD_MIN)
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


class NumpyOptimizer:
    """
    One step of a torch optimiser, on its own state.

    :param optimizer: An optimiser that :meth:`applies_to` accepts.
    :param theta: Its parameters as one vector, shape (P,).
    :param scratch: Memory to work in, shape (P,).
    """

    STATES: ClassVar[dict[type[th.optim.Optimizer], tuple[str, ...]]] = {
        th.optim.SGD: (), th.optim.RMSprop: ("square_avg",), th.optim.Adam: ("exp_avg", "exp_avg_sq"), ObGD: ()
    }  # fmt: skip

    def __init__(self, optimizer: th.optim.Optimizer, theta: np.ndarray, scratch: np.ndarray) -> None:
        (self.group,) = optimizer.param_groups
        self.theta, self.scratch, self.kind = theta, scratch, type(optimizer)
        params, names = self.group["params"], self.STATES[self.kind]
        self.states = [np.zeros_like(theta) for _ in names]
        self.steps = np.zeros(len(params), dtype=np.float32)
        if not names:
            return
        sizes = [p.numel() for p in params]
        for i, p in enumerate(params):
            state = optimizer.state[p]
            if state:
                self.steps[i] = float(state["step"])
            state["step"] = th.from_numpy(self.steps)[i]
        for name, flat in zip(names, self.states, strict=True):
            for p, part in zip(params, th.from_numpy(flat).split(sizes), strict=True):
                state = optimizer.state[p]
                if name in state:
                    part.copy_(state[name].flatten())
                state[name] = part.view_as(p)

    @classmethod
    def applies_to(cls, optimizer: th.optim.Optimizer) -> bool:
        """
        :param optimizer: Any optimiser.
        :return: Whether it is one of SGD, RMSprop, Adam and ObGD, without momentum, weight decay and other variants.
        """
        variants = (
            "momentum",
            "weight_decay",
            "nesterov",
            "centered",
            "amsgrad",
            "maximize",
            "differentiable",
            "capturable",
        )
        return (
            type(optimizer) in cls.STATES
            and len(optimizer.param_groups) == 1
            and not any(optimizer.param_groups[0].get(name) for name in variants)
        )

    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        """
        :param direction: The gradient up to a factor, shape (P,).
        :param scale: That factor.
        :param td_error: Mean size of the TD errors, for ObGD.
        """
        group, scratch = self.group, self.scratch
        rate = group["lr"]
        if self.kind is ObGD or self.kind is th.optim.SGD:
            if self.kind is ObGD:
                # einsum sums faster than reduce.
                bound = float(np.einsum("i->", np.abs(direction, out=scratch))) * abs(scale) / max(min(td_error, 1.0), 1e-12)
                rate /= max(1.0, rate * group["kappa"] * bound)
            np.multiply(direction, rate * scale, out=scratch)
        elif self.kind is th.optim.RMSprop:
            self.steps += ONE
            (square_avg,) = self.states
            square_avg *= group["alpha"]
            np.multiply(direction, direction, out=scratch)
            scratch *= (1.0 - group["alpha"]) * scale * scale
            square_avg += scratch
            np.sqrt(square_avg, out=scratch)
            scratch += group["eps"]
            np.divide(direction, scratch, out=scratch)
            scratch *= rate * scale
        else:
            self.steps += ONE
            (beta1, beta2), step = group["betas"], float(self.steps[0])
            exp_avg, exp_avg_sq = self.states
            exp_avg *= beta1
            np.multiply(direction, (1.0 - beta1) * scale, out=scratch)
            exp_avg += scratch
            exp_avg_sq *= beta2
            np.multiply(direction, direction, out=scratch)
            scratch *= (1.0 - beta2) * scale * scale
            exp_avg_sq += scratch
            # The corrections of both averages' bias, moved to the scalars.
            correction = math.sqrt(1.0 - beta2**step)
            np.sqrt(exp_avg_sq, out=scratch)
            scratch += group["eps"] * correction
            np.divide(exp_avg, scratch, out=scratch)
            scratch *= rate * correction / (1.0 - beta1**step)
        self.theta -= scratch


class NumpyLearner:
    """
    SingleStepA2C's step and update.

    :param policy: A policy that :func:`applies_to` accepts. Its parameters become parts of one vector.
    :param optimizers: The actor's and the critic's, or one for both; :meth:`NumpyOptimizer.applies_to` accepts them.
    :param traces: Eligibility traces, shape (B, P) in the optimisers' order, or None.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        optimizers: Sequence[th.optim.Optimizer],
        traces: th.Tensor | None,
    ) -> None:
        params: list[nn.Parameter] = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
        sizes = [p.numel() for p in params]
        theta = th.cat([p.detach().flatten() for p in params])
        self.traces = None if traces is None else traces.numpy()
        rows = 1 if self.traces is None else len(self.traces)
        self.theta = theta.numpy()
        self.gradients = np.zeros((rows, len(theta)), dtype=np.float32)
        self.direction = np.empty(len(theta), dtype=np.float32)
        self.value_gradient = np.empty((rows, 1), dtype=np.float32)
        gradients: dict[th.Tensor, np.ndarray] = {}
        for p, part, end in zip(params, theta.split(sizes), np.cumsum(sizes), strict=True):
            p.data = part.view_as(p)
            gradients[p] = self.gradients[:, end - p.numel() : end].reshape(rows, *p.shape)
            assert np.shares_memory(gradients[p], self.gradients)
        # Traces have taken up the gradients when an optimiser steps: the less memory, the more of it stays in the cache.
        scratch = self.direction if self.traces is None else self.gradients[0]
        self.optimizers: list[tuple[NumpyOptimizer, slice]] = []
        start = 0
        for optimizer in optimizers:
            end = start + sum(p.numel() for p in optimizer.param_groups[0]["params"])
            part_of = slice(start, end)
            self.optimizers.append((NumpyOptimizer(optimizer, self.theta[part_of], scratch[part_of]), part_of))
            start = end
        self.act = NumpyActor(policy, gradients)
        self.critic = Net([*policy.mlp_extractor.value_net, policy.value_net], gradients)

    def steps_for(self, optimizers: Sequence[th.optim.Optimizer]) -> bool:
        """
        :param optimizers: The model's now.
        :return: Whether they are those it was made with, in the state that it works on: loading one makes new groups.
        """
        return all(
            ours.group is theirs.param_groups[0] for (ours, _), theirs in zip(self.optimizers, optimizers, strict=True)
        )

    def td_errors(self, rewards: np.ndarray, terminations: np.ndarray, next_obs: Any, gamma: float) -> np.ndarray:
        """See :func:`sb3_pg_extras.losses.td_errors`, from the states acted on last; one forward pass for both values."""
        n = len(rewards)
        values = self.critic.forward(np.concatenate((self.act.states, flatten(next_obs, self.act.observation_space))))[:, 0]
        errors = rewards + gamma * (1.0 - terminations) * values[n:] - values[:n]
        return errors.astype(np.float32, copy=False)

    def update(
        self,
        td_errors: np.ndarray,
        dones: np.ndarray,
        decay: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float | None,
    ) -> None:
        """
        One update of actor and critic from the step whose actions were drawn and whose TD errors were computed last.

        :param td_errors: shape (B,), float32.
        :param dones: shape (B,).
        :param decay: Discount factor times lambda.
        :param ent_coef: Weight of the entropy.
        :param vf_coef: Weight of the squared TD error.
        :param max_grad_norm: Bound of the gradient's norm for each optimiser, or None.
        """
        n, delta = len(td_errors), td_errors[:, None]
        if self.traces is None:
            # The loss of the literal form, and its sign: a descent.
            self.act.backward(delta / -n, -ent_coef / n if ent_coef else None)
            self.critic.backward(delta * (-2.0 * vf_coef / n))
            direction, scale = self.gradients[0], 1.0
        else:
            self.act.backward(1.0, ent_coef * np.sign(delta) if ent_coef else None)
            self.value_gradient.fill(2.0 * vf_coef)
            self.critic.backward(self.value_gradient)
            self.traces *= decay
            self.traces += self.gradients
            if n == 1:
                direction, scale = self.traces[0], -float(td_errors[0])
            else:
                # Not a matrix product: its threads cost more than they do.
                direction, scale = np.einsum("n,np->p", td_errors, self.traces, out=self.direction), -1.0 / n
        size = float(np.add.reduce(np.abs(td_errors))) / n
        for optimizer, part in self.optimizers:
            factor = scale
            if max_grad_norm is not None:
                norm = abs(scale) * math.sqrt(np.dot(direction[part], direction[part]))
                factor *= min(1.0, max_grad_norm / (norm + 1e-6))
            optimizer.step(direction[part], factor, size)
        if self.traces is not None and np.count_nonzero(dones):
            self.traces[dones] = 0.0
