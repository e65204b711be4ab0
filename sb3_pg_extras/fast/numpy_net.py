"""
Small networks in NumPy, with their gradients: at batch size one, PyTorch's overhead per call is most of a step's time.

Everything here works in the memory of the policy's own tensors, so that saving, predicting and callbacks see an ordinary SB3
model at all times.

Letters in shapes: B states (one per environment), R rows of gradients (1 for their sum, or one per environment).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from torch import nn

# NumPy is faster with a scalar of the array's own type than with a Python number.
ZERO, ONE = np.float32(0), np.float32(1)

# A layer keeps what its forward pass was given or returned; its backward pass may overwrite the gradient it is given.


class Dense:
    """
    A linear layer.

    :param linear: The module whose parameters it reads.
    :param gradients: Parameter -> where its gradient goes, shape (R, *p.shape); without it the layer only computes.
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
        """
        Write the parameters' gradients.

        :param gradient: That of the output, shape (n, units), for the first n states of the forward pass.
        """
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
    Layers in a row. The backward pass takes the first states of the forward pass, all or fewer.

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
        # Nothing needs the gradient of the first layer's input.
        for layer in self.layers[:1]:
            layer.learn(gradient)
