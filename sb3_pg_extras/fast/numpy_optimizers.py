"""PyTorch's optimisers in NumPy, on parameters that are parts of one vector and on PyTorch's own state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch as th

from sb3_pg_extras.fast.numpy_net import ONE

# What is not computed here: options of PyTorch's optimisers that are off by default.
VARIANTS = ("momentum", "weight_decay", "nesterov", "centered", "amsgrad", "maximize", "differentiable", "capturable")


class NumpyOptimizer(ABC):
    """
    The steps of an optimiser; P is the number of its parameters.

    :param optimizer: An optimiser that :meth:`applies_to` accepts. Its state becomes views of this object's vectors.
    :param theta: Its parameters as one vector, shape (P,).
    :param scratch: Memory to work in, shape (P,).
    """

    # What PyTorch's state holds for each parameter.
    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: th.optim.Optimizer, theta: np.ndarray, scratch: np.ndarray) -> None:
        (self.group,) = optimizer.param_groups
        self.theta, self.scratch = theta, scratch
        self.states: list[np.ndarray] = []
        for name in self.state_names:
            shapes = [() if name == "step" else p.shape for p in self.group["params"]]
            sizes = [math.prod(shape) for shape in shapes]
            self.states.append(np.zeros(sum(sizes), dtype=np.float32))
            parts = th.from_numpy(self.states[-1]).split(sizes)
            for p, part, shape in zip(self.group["params"], parts, shapes, strict=True):
                state = optimizer.state[p]
                if name in state:
                    part.copy_(th.as_tensor(state[name]).flatten())
                state[name] = part.view(shape)

    @staticmethod
    def applies_to(optimizer: th.optim.Optimizer) -> bool:
        """
        :param optimizer: Any optimiser.
        :return: Whether it is one of ``OPTIMIZERS``, with one group and without momentum, weight decay and other variants.
        """
        first, *others = optimizer.param_groups
        return type(optimizer) in OPTIMIZERS and not others and not any(first.get(name) for name in VARIANTS)

    @abstractmethod
    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        """
        One step of descent.

        :param direction: The gradient up to a factor, shape (P,).
        :param scale: That factor.
        :param td_error: Mean size of the TD errors in the gradient, for optimisers that bound their steps by it.
        """


class NumpySGD(NumpyOptimizer):
    """``torch.optim.SGD`` without momentum."""

    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        self.theta -= np.multiply(direction, self.group["lr"] * scale, out=self.scratch)


class NumpyRMSprop(NumpyOptimizer):
    """``torch.optim.RMSprop``."""

    state_names = ("step", "square_avg")

    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        group, scratch, (steps, square_avg) = self.group, self.scratch, self.states
        steps += ONE
        square_avg *= group["alpha"]
        np.multiply(direction, direction, out=scratch)
        scratch *= (1.0 - group["alpha"]) * scale * scale
        square_avg += scratch
        np.sqrt(square_avg, out=scratch)
        scratch += group["eps"]
        np.divide(direction, scratch, out=scratch)
        scratch *= group["lr"] * scale
        self.theta -= scratch


class NumpyAdam(NumpyOptimizer):
    """``torch.optim.Adam``."""

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def step(self, direction: np.ndarray, scale: float, td_error: float) -> None:
        group, scratch, (steps, exp_avg, exp_avg_sq) = self.group, self.scratch, self.states
        steps += ONE
        (beta1, beta2), step = group["betas"], float(steps[0])
        exp_avg *= beta1
        np.multiply(direction, (1.0 - beta1) * scale, out=scratch)
        exp_avg += scratch
        exp_avg_sq *= beta2
        np.multiply(direction, direction, out=scratch)
        scratch *= (1.0 - beta2) * scale * scale
        exp_avg_sq += scratch
        # The bias corrections of both averages, applied to scalars.
        correction = math.sqrt(1.0 - beta2**step)
        np.sqrt(exp_avg_sq, out=scratch)
        scratch += group["eps"] * correction
        np.divide(exp_avg, scratch, out=scratch)
        scratch *= group["lr"] * correction / (1.0 - beta1**step)
        self.theta -= scratch


# An algorithm may add its own optimisers.
OPTIMIZERS: dict[type[th.optim.Optimizer], type[NumpyOptimizer]] = {
    th.optim.SGD: NumpySGD, th.optim.RMSprop: NumpyRMSprop, th.optim.Adam: NumpyAdam
}  # fmt: skip


class NumpyOptimizers:
    """
    The steps of several optimisers: P is the number of all their parameters, which become parts of one vector.

    :param optimizers: Optimisers that ``NumpyOptimizer.applies_to`` accepts.
    :param rows: Rows R of gradients.
    :param gradients_are_scratch: Whether a step may overwrite the gradients: less memory fits the cache better.
    """

    def __init__(self, optimizers: Sequence[th.optim.Optimizer], rows: int, gradients_are_scratch: bool) -> None:
        params = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
        theta = th.cat([p.detach().flatten() for p in params])
        # Shape (R, P), and the same memory by parameter, as ``numpy_net.Dense`` takes it.
        self.gradients = np.zeros((rows, len(theta)), dtype=np.float32)
        self.gradients_by_param: dict[th.Tensor, np.ndarray] = {}
        scratch = self.gradients[0] if gradients_are_scratch else np.empty(len(theta), dtype=np.float32)
        self.parts: list[tuple[NumpyOptimizer, slice]] = []
        end = 0
        for optimizer in optimizers:
            first = end
            for p in optimizer.param_groups[0]["params"]:
                start, end = end, end + p.numel()
                p.data = theta[start:end].view_as(p)
                self.gradients_by_param[p] = self.gradients[:, start:end].reshape(rows, *p.shape)
                assert np.shares_memory(self.gradients_by_param[p], self.gradients)
            part = slice(first, end)
            self.parts.append((OPTIMIZERS[type(optimizer)](optimizer, theta.numpy()[part], scratch[part]), part))

    def stand_for(self, optimizers: Sequence[th.optim.Optimizer]) -> bool:
        """
        :param optimizers: The model's now.
        :return: Whether they are those it was made with, in the state that it works on: loading one makes new groups.
        """
        return all(ours.group is theirs.param_groups[0] for (ours, _), theirs in zip(self.parts, optimizers, strict=True))

    def step(self, direction: np.ndarray, scale: float, td_error: float, max_grad_norm: float | None) -> None:
        """
        One step of descent with each optimiser.

        :param direction: The gradient up to a factor, shape (P,).
        :param scale: That factor.
        :param td_error: As for :meth:`NumpyOptimizer.step`.
        :param max_grad_norm: Bound of the gradient's norm for each optimiser by itself, or None.
        """
        for optimizer, part in self.parts:
            own, factor = direction[part], scale
            if max_grad_norm is not None:
                factor *= min(1.0, max_grad_norm / (abs(scale) * math.sqrt(np.dot(own, own)) + 1e-6))
            optimizer.step(own, factor, td_error)
