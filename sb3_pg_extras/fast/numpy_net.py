"""
Small networks in NumPy, with their gradients: at batch size one, PyTorch's overhead per call is most of a step's time.

Everything here works in the memory of the policy's own tensors: saving, predicting and callbacks always see an ordinary SB3
model.

Letters in shapes: B states (one per environment), R rows of gradients (1 for their sum, or one per environment).
"""

from collections.abc import Callable, Sequence
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


# PyTorch's activation -> its value at x, and its slope where that value is y; m is the module.
ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    nn.Tanh: (lambda m, x: np.tanh(x), lambda m, x, y: ONE - y * y),
    nn.ReLU: (lambda m, x: np.maximum(x, ZERO), lambda m, x, y: x > ZERO),
    nn.LeakyReLU: (
        lambda m, x: np.where(x > ZERO, x, np.float32(m.negative_slope) * x),
        lambda m, x, y: np.where(x > ZERO, ONE, np.float32(m.negative_slope)),
    ),
    nn.ELU: (
        lambda m, x: np.where(x > ZERO, x, np.float32(m.alpha) * np.expm1(np.minimum(x, ZERO))),
        lambda m, x, y: np.where(x > ZERO, ONE, y + np.float32(m.alpha)),
    ),
}


class Activation:
    """One of ``ACTIVATIONS``."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.value, self.slope = ACTIVATIONS[type(module)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x, self.y = x, self.value(self.module, x)
        return self.y

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        n = len(gradient)
        gradient *= self.slope(self.module, self.x[:n], self.y[:n])
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
        self.y = np.divide(x, self.std, out=x)
        return x

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        n = len(gradient)
        along = np.dot(gradient * self.y[:n], self.averaging)[:, None]
        gradient -= np.dot(gradient, self.averaging)[:, None]
        gradient -= self.y[:n] * along
        gradient /= self.std[:n]
        return gradient


# What a net may consist of.
LAYERS: dict[type[nn.Module], Any] = {nn.Linear: Dense, nn.LayerNorm: LayerNorm, **dict.fromkeys(ACTIVATIONS, Activation)}


class Net:
    """
    Layers in a row. The backward pass takes the first states of the forward pass, all or fewer.

    :param modules: Linear layers, activations and layer norms; a linear one first.
    :param gradients: See :class:`Dense`.
    """

    def __init__(self, modules: Sequence[nn.Module], gradients: dict[th.Tensor, np.ndarray]) -> None:
        self.layers: list[Any] = [
            Dense(module, gradients) if isinstance(module, nn.Linear) else LAYERS[type(module)](module) for module in modules
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
