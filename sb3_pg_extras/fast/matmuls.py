"""Matrix products on a CPU: oneDNN where it is as accurate as MKL and faster, and whether there is bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock

import torch as th

# Error as a share of the largest entry: about 1e-6 in single precision, 1e-3 in bfloat16 and TF32.
ACCURACY = 1e-5
# 256 x 256. With layers of 64 and 128 oneDNN took 1.2 times as long for a gradient step of BEAR, with 256 and 750 less.
LARGE = 1 << 16
# The setting is the process's: models that learn in several threads take turns, or one would multiply with the other's.
LOCK = RLock()


@contextmanager
def fast_matmuls(device: th.device, largest: int) -> Iterator[None]:
    """
    On a CPU, let oneDNN multiply matrices instead of MKL in this block (``set_float32_matmul_precision("medium")``), unless
    it multiplies in less than single precision there, or they are so small that it is slower. Otherwise the user's setting
    stays.

    :param device: Where the matrices are.
    :param largest: Numbers in the largest of the networks' matrices.
    """
    if device.type != "cpu":
        yield
        return
    with LOCK:
        before = th.get_float32_matmul_precision()
        if largest >= LARGE and medium_is_accurate():
            th.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            th.set_float32_matmul_precision(before)


@cache
def medium_is_accurate() -> bool:
    """
    Processors with bfloat16 matrix units may use them for "medium", which PyTorch allows: measure it once.

    :return: Whether oneDNN multiplies in single precision here.
    """
    generator = th.Generator().manual_seed(0)
    a, b = (th.randn((256, 256), generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    before = th.get_float32_matmul_precision()
    th.set_float32_matmul_precision("medium")
    try:
        error = (a @ b - exact).abs().max() / exact.abs().max()
    finally:
        th.set_float32_matmul_precision(before)
    return bool(error < ACCURACY)


def has_bf16(device: th.device) -> bool:
    """
    :param device: A device.
    :return: Whether it multiplies bfloat16 matrices in hardware.
    """
    if device.type == "cuda":
        return th.cuda.is_bf16_supported()
    capabilities = th.cpu.get_capabilities()
    return device.type == "cpu" and any(name.endswith("bf16") and present for name, present in capabilities.items())
