"""Eligibility traces, and an optimiser that bounds its steps, as in stream-x (Elsayed, Vasan and Mahmood 2024)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.optim.optimizer import ParamsT


class ObGD(th.optim.Optimizer):
    """
    Overshooting-bounded gradient descent (Elsayed, Vasan and Mahmood 2024, arXiv:2410.14606, Algorithm 3; ``optim.py`` of
    stream-x): descent with the step size ``lr / max(1, lr * kappa * M)``, where ``M = max(|td_error|, 1) * |e|_1`` and the
    gradient is ``td_error * e``.

    It is used like any optimiser of PyTorch: ``p.grad`` holds ``td_error * e``, where e is the trace or gradient. M also
    depends on a TD error below 1, so :meth:`step` takes it; without it, M is the L1 norm of ``p.grad``. All parameters of
    a group share one step size. There is no state.

    :param params: Parameters, or groups of them.
    :param lr: Largest step size.
    :param kappa: How far to stay below the step that overshoots, above 0; the authors take 3 for actors and 2 for critics.
    :raises ValueError: for values out of range.
    """

    def __init__(self, params: ParamsT, lr: float = 1.0, kappa: float = 2.0) -> None:
        if lr < 0:
            raise ValueError(f"lr={lr!r}: must be 0 or above")
        if kappa <= 0:
            raise ValueError(f"kappa={kappa!r}: must be above 0")
        super().__init__(params, {"lr": lr, "kappa": kappa})

    @th.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, td_error: float | None = None) -> Any:
        """
        :param closure: Re-evaluates the loss, as for any optimiser of PyTorch.
        :param td_error: The TD error in the gradients; of several samples, the mean of the absolute values.
        :return: What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            if not params:
                continue
            bound = float(sum(th._foreach_norm(grads, 1)))
            if td_error is not None and abs(td_error) < 1.0:
                # A zero TD error comes with a zero gradient.
                bound /= max(abs(td_error), 1e-12)
            th._foreach_add_(params, grads, alpha=-group["lr"] / max(1.0, group["lr"] * group["kappa"] * bound))
        return loss


class EligibilityTraces:
    """
    Eligibility traces, a row per environment: ``e <- decay e + gradient`` (Sutton & Barto 2018, section 13.5).

    :param params: The parameters.
    :param n_envs: Number of environments.
    """

    def __init__(self, params: Iterable[nn.Parameter], n_envs: int) -> None:
        self.params = [p for p in params if p.requires_grad]
        self.sizes = [p.numel() for p in self.params]
        self.traces = th.zeros(n_envs, sum(self.sizes), device=self.params[0].device)

    def accumulate(self, objectives: th.Tensor, decay: float) -> None:
        """
        :param objectives: What to differentiate, one per environment, shape (n_envs,).
        :param decay: Discount factor times lambda.
        """
        self.traces.mul_(decay)
        for index, objective in enumerate(objectives):
            for p in self.params:
                p.grad = None
            objective.backward(retain_graph=index + 1 < len(objectives))
            # Some parameters may be unused, or frozen since.
            gradients = [th.zeros_like(p) if p.grad is None else p.grad for p in self.params]
            self.traces[index] += parameters_to_vector(gradients)

    def write_gradients(self, td_errors: th.Tensor) -> None:
        """
        Set the parameters' gradients to ``-mean(td_error e)`` over the environments, the direction that a descent takes.

        :param td_errors: shape (n_envs,), without gradient.
        """
        gradient = -(td_errors @ self.traces) / len(td_errors)
        for p, part in zip(self.params, gradient.split(self.sizes), strict=True):
            p.grad = part.view_as(p) if p.requires_grad else None

    def reset(self, dones: np.ndarray) -> None:
        """
        Forget the episodes that ended.

        :param dones: Which environments, shape (n_envs,).
        """
        if dones.any():
            self.traces[th.as_tensor(dones, device=self.traces.device)] = 0.0

    def state_dict(self) -> dict[str, th.Tensor]:
        """:return: What :meth:`load_state_dict` takes."""
        return {"traces": self.traces}

    def load_state_dict(self, state_dict: Mapping[str, th.Tensor], strict: bool = True) -> None:
        """
        :param state_dict: What :meth:`state_dict` returned. For another number of environments, whose episodes start anew,
            the traces are 0.
        :param strict: Ignored, as there is only one entry.
        """
        saved = state_dict["traces"]
        self.traces.copy_(saved if saved.shape == self.traces.shape else th.zeros(()))
