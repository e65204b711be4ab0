"""The step and update of SingleStepA2C in NumPy."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg_extras.fast.numpy_actor import NumpyActor, flatten
from sb3_pg_extras.fast.numpy_net import ONE, Net
from sb3_pg_extras.single_step_a2c.optimizers import ObGD


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
        """As in ``policy_gradients.py``, from the states acted on last; one forward pass for both values."""
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
