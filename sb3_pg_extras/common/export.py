"""Policies as ONNX and TorchScript files, which act as ``predict(deterministic=True)`` does without this package or SB3."""

import copy
import io
import pathlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_wrapper
from torch import nn

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.files import open_to_save
from sb3_pg_extras.common.optional import require

# onnxruntime supports it since 1.12 (2022).
OPSET = 17
Target = str | pathlib.Path | io.BufferedIOBase
Normalizes = bool | VecNormalize


def export_onnx(model: BaseAlgorithm, path: Target, vec_normalize: Normalizes = True) -> None:
    """
    Write a policy as an ONNX file, whole or not at all.

    Its inputs are raw observations, as the environment or dataset has them: ``observation``, or one input for each key of
    a Dict, with the type of the observation space and shape ``(batch, *shape)`` for any batch size. Its output ``action``,
    shape ``(batch, *action_space.shape)``, is in environment units, and equals ``predict(deterministic=True)`` up to
    rounding. The file checks nothing: an observation that is not finite may give an action that is not finite.

    :param model: Any algorithm of SB3 whose actions follow from single observations.
    :param path: Path of the file (``.onnx`` is added where no suffix is), or a file object.
    :param vec_normalize: Whether observations are normalised in it as by the environment's ``VecNormalize``, which
        ``predict`` leaves to the environment. Pass a ``VecNormalize`` to use its statistics instead, for a model that was
        loaded without its environment.
    :raises ValueError: for a policy that, exported, does not act as ``predict`` does, and for observations that are stacked
        after ``VecNormalize``.
    :raises MissingPackageError: without ``onnx``.
    """
    require("onnx", "export")
    with open_to_save(path, ".onnx") as file, _traced(model, vec_normalize) as (module, _, observations):
        names = list(observations) if isinstance(observations, dict) else ["observation"]
        batched = {name: {0: "batch"} for name in [*names, "action"]}
        args = (observations, {}) if isinstance(observations, dict) else (observations,)
        # The exporter that is the default since PyTorch 2.9 fails on SB3's distributions.
        th.onnx.export(
            module, args, cast(Any, file), dynamo=False, opset_version=OPSET, dynamic_axes=batched, input_names=names,
            output_names=["action"],
        )  # fmt: skip


def export_torchscript(model: BaseAlgorithm, path: Target, vec_normalize: Normalizes = True) -> None:
    """
    Write a policy as a TorchScript file, whole or not at all, for ``torch.jit.load`` in Python or C++: a function of raw
    observations, a tensor or a dict of tensors on the CPU, that returns the actions of :func:`export_onnx`.

    :param model: As for :func:`export_onnx`.
    :param path: Path of the file (``.pt`` is added where no suffix is), or a file object.
    :param vec_normalize: As for :func:`export_onnx`.
    :raises ValueError: as :func:`export_onnx` does.
    """
    with open_to_save(path, ".pt") as file, _traced(model, vec_normalize) as (_, traced, _):
        th.jit.save(traced, file)


class ExportedPolicy(nn.Module):
    """
    ``predict(deterministic=True)`` from tensors to tensors.

    :param policy: The policy.
    :param observation_space: The space of raw observations.
    :param normalizer: Normalises them, or None.
    :raises ValueError: for observations that are stacked after they were normalised, or do not fit the policy.
    """

    def __init__(self, policy: BasePolicy, observation_space: spaces.Space, normalizer: VecNormalize | None) -> None:
        super().__init__()
        self.policy, self.observation_space, self.normalizer = policy, observation_space, normalizer
        self.statistics: dict[str, Any] = {}
        if normalizer is not None and normalizer.norm_obs:
            rms: Any = normalizer.obs_rms
            self.statistics = rms if isinstance(rms, dict) else {"": rms}
        for key in observation_space.spaces if isinstance(observation_space, spaces.Dict) else [""]:
            raw, seen = _part(observation_space, key).shape or (), _part(policy.observation_space, key).shape or ()
            if seen not in (raw, (*raw[2:], *raw[:2])):
                raise ValueError(
                    f"the policy takes observations of shape {seen}, the environment gives {raw}. If frames are stacked "
                    "after VecNormalize, export with vec_normalize=False and do both outside"
                )

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: Raw observations of B states, (B, ...), or a dict of those.
        :return: Actions in environment units, (B, *action_space.shape).
        """
        policy: Any = self.policy
        keys = {key: key for key in observations} if isinstance(observations, dict) else ""
        action_space = policy.action_space
        actions = policy._predict(map_arrays(self._prepare, observations, keys), deterministic=True)
        actions = actions.reshape(-1, *action_space.shape)
        if not isinstance(action_space, spaces.Box):
            return actions.to(th.as_tensor(np.zeros(0, action_space.dtype)).dtype)
        low, high = th.as_tensor(action_space.low), th.as_tensor(action_space.high)
        if policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return th.minimum(th.maximum(actions, low), high)

    def _prepare(self, observations: th.Tensor, key: str) -> th.Tensor:
        """:return: The observations as ``_predict`` gets them."""
        if key in self.statistics:
            # In double precision, as NumPy does it.
            rms, clip = self.statistics[key], self.normalizer.clip_obs  # type: ignore[union-attr]
            mean, std = th.as_tensor(rms.mean), th.as_tensor(np.sqrt(rms.var + self.normalizer.epsilon))  # type: ignore[union-attr]
            observations = ((observations.double() - mean) / std).clamp(-clip, clip).float()
        shape = _part(self.policy.observation_space, key).shape
        if _part(self.observation_space, key).shape != shape:
            observations = observations.permute(0, 3, 1, 2)
        return observations.reshape(-1, *shape)  # type: ignore[misc]


@contextmanager
def _traced(model: BaseAlgorithm, vec_normalize: Normalizes) -> Iterator[tuple[nn.Module, Any, Any]]:
    """On the CPU: the policy as a module that takes raw observations, the same as TorchScript, and example observations."""
    policy, device = model.policy, model.policy.device
    if hasattr(policy, "lstm_actor"):
        raise ValueError(f"{type(policy).__name__} cannot be exported: a recurrent policy acts by its memory, too")
    normalizer = model.get_vec_normalize_env() if vec_normalize is True else vec_normalize or None
    module = ExportedPolicy(policy, _raw_observation_space(model, normalizer), normalizer)
    observations = map_arrays(th.as_tensor, _examples(module.observation_space, 2))
    # As predict leaves it.
    policy.set_training_mode(False)
    with th.no_grad(), warnings.catch_warnings():
        # The tracer warns of what is checked here, PyTorch of what it will drop in a later version.
        warnings.simplefilter("ignore")
        try:
            policy.to("cpu")
            try:
                traced = th.jit.trace(module.eval(), (observations,), check_trace=False)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"{type(policy).__name__} cannot be exported: {error}") from error
            # Drops the networks that do not act.
            traced = th.jit.freeze(traced, optimize_numerics=False)
            _check(traced, module)
            yield module, traced, observations
        finally:
            policy.to(device)
            # On a GPU, gradient steps that have been captured know the tensors that were there before.
            if hasattr(model, "_captured_steps"):
                model._captured_steps = None


def _raw_observation_space(model: BaseAlgorithm, normalizer: VecNormalize | None) -> spaces.Space:
    if normalizer is not None:
        return normalizer.observation_space if normalizer.venv is None else normalizer.venv.observation_space
    transposed = None if model.env is None else unwrap_vec_wrapper(model.env, VecTransposeImage)
    return model.policy.observation_space if transposed is None else transposed.venv.observation_space


def _check(traced: Any, module: ExportedPolicy) -> None:
    """:raises ValueError: when the traced policy, at another batch size than before, does not act as ``predict`` does."""
    observations = _examples(module.observation_space, 3)
    actions = traced(map_arrays(th.as_tensor, observations)).numpy()
    if module.normalizer is not None:
        observations = module.normalizer.normalize_obs(observations)
    wanted = module.policy.predict(observations, deterministic=True)[0]
    if actions.shape != wanted.shape or not np.allclose(actions, wanted, atol=1e-5):
        raise ValueError(
            f"{type(module.policy).__name__} cannot be exported: its actions would be {actions}, not {wanted}. Are there "
            "decisions in it that depend on values, sizes that are Python numbers (len), or a predict() of its own?"
        )


def _examples(space: spaces.Space, n: int) -> Any:
    """:return: n observations, of moderate size where the space has no bounds."""
    space = copy.deepcopy(space)
    space.seed(0)
    stacked = map_arrays(lambda *samples: np.stack(samples), *(space.sample() for _ in range(n)))
    return map_arrays(lambda array: np.clip(array, -1, 1) if array.dtype.kind == "f" else array, stacked)


def _part(space: spaces.Space, key: str) -> spaces.Space:
    return space[key] if isinstance(space, spaces.Dict) else space
