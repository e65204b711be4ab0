"""The step and update of SingleStepA2C in NumPy: the same as ``single_step_a2c.py`` does in PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg_extras.fast.numpy_actor import NumpyActor, flatten
from sb3_pg_extras.fast.numpy_net import Net
from sb3_pg_extras.fast.numpy_optimizers import OPTIMIZERS, NumpyOptimizer, NumpyOptimizers
from sb3_pg_extras.single_step_a2c.optimizers import ObGD


class NumpyObGD(NumpyOptimizer):
    """:class:`~sb3_pg_extras.single_step_a2c.optimizers.ObGD`."""

    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        rate, scratch = self.group["lr"], self.scratch
        # einsum sums faster than reduce.
        bound = float(np.einsum("i->", np.abs(direction, out=scratch))) * abs(scale) / max(min(td_error, 1.0), 1e-12)
        rate /= max(1.0, rate * self.group["kappa"] * bound)
        self.theta -= np.multiply(direction, rate * scale, out=scratch)


OPTIMIZERS[ObGD] = NumpyObGD


class NumpyLearner:
    """
    The step and update of actor and critic, in the memory of the policy's parameters, of the optimisers' states and of the
    traces. B is the number of environments, P that of parameters.

    :param policy: A policy that ``NumpyActor.applies_to`` accepts.
    :param optimizers: The actor's and the critic's, or one for both; :meth:`applies_to` accepts them.
    :param traces: Eligibility traces, shape (B, P) in the optimisers' order, or None.
    """

    def __init__(
        self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer], traces: th.Tensor | None
    ) -> None:
        self.traces = None if traces is None else traces.numpy()
        rows = 1 if self.traces is None else len(self.traces)
        self.value_gradient = np.empty((rows, 1), dtype=np.float32)
        # When an optimiser steps, the gradients have been added to the traces.
        self.optimizers = NumpyOptimizers(optimizers, rows, gradients_are_scratch=self.traces is not None)
        self.act = NumpyActor(policy, self.optimizers.gradients_by_param)
        self.critic = Net([*policy.mlp_extractor.value_net, policy.value_net], self.optimizers.gradients_by_param)

    @staticmethod
    def applies_to(policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> bool:
        """
        :param policy: A policy that ``NumpyActor.applies_to`` accepts.
        :param optimizers: Any optimisers.
        :return: Whether they are known here, and together have all parameters of the policy.
        """
        params = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        return params == set(policy.parameters()) and all(map(NumpyOptimizer.applies_to, optimizers))

    def td_errors(self, rewards: np.ndarray, terminations: np.ndarray, next_obs: Any, gamma: float) -> np.ndarray:
        """As ``policy_gradients.td_errors``, for the states acted on last; one forward pass for both values."""
        n = len(rewards)
        values = self.critic.forward(np.concatenate((self.act.states, flatten(next_obs, self.act.observation_space))))[:, 0]
        return (rewards + gamma * (1.0 - terminations) * values[n:] - values[:n]).astype(np.float32, copy=False)

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
            # The gradient of the loss, for a descent.
            self.act.backward(delta / -n, -ent_coef / n if ent_coef else None)
            self.critic.backward(delta * (-2.0 * vf_coef / n))
            direction, scale = self.optimizers.gradients[0], 1.0
        else:
            self.act.backward(1.0, ent_coef * np.sign(delta) if ent_coef else None)
            self.value_gradient.fill(2.0 * vf_coef)
            self.critic.backward(self.value_gradient)
            self.traces *= decay
            self.traces += self.optimizers.gradients
            if n == 1:
                direction, scale = self.traces[0], -float(td_errors[0])
            else:
                # Not a matrix product, whose threads cost more than they save.
                direction, scale = np.einsum("n,np->p", td_errors, self.traces), -1.0 / n
        self.optimizers.step(direction, scale, float(np.add.reduce(np.abs(td_errors))) / n, max_grad_norm)
        if self.traces is not None and np.count_nonzero(dones):
            self.traces[dones] = 0.0
