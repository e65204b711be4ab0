"""Networks in double precision without a second copy of their weights, for choices that rounding would decide."""

from typing import Any

import torch as th
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

IN_DOUBLE = {F.linear, F.layer_norm, F.batch_norm}
# onnxruntime has these in single precision only.
IN_SINGLE = {F.conv1d, F.conv2d, F.conv3d, F.elu, F.gelu, F.mish, F.selu, F.softplus}


class DoublePrecision(TorchFunctionMode):
    """A context in which modules compute in double precision from their first linear layer on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is th.Tensor.float and args[0].dtype == th.float64:
            return args[0]
        if func in IN_DOUBLE or func in IN_SINGLE:
            dtype = th.float64 if func in IN_DOUBLE else th.float32
            args = [value.to(dtype) if _is_float(value) else value for value in args]
            kwargs = {name: value.to(dtype) if _is_float(value) else value for name, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _is_float(value: Any) -> bool:
    return isinstance(value, th.Tensor) and value.is_floating_point()
