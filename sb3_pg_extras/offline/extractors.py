"""Features extractors of offline algorithms: vectors normalised with the dataset's statistics, keys with dots."""

import inspect
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.torch_layers import CombinedExtractor as SB3CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, TensorDict
from torch import nn

from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.offline.normalization import CLIP, EPSILON, set_moments


class CombinedExtractor(SB3CombinedExtractor):
    """
    SB3's, also for keys with dots (``observation.state.joints``), which PyTorch does not allow in module names.

    :param observation_space: A Dict space.
    :param kwargs: As in SB3.
    """

    def __init__(self, observation_space: spaces.Dict, **kwargs: Any) -> None:
        super().__init__(
            spaces.Dict({_module_name(key): space for key, space in observation_space.spaces.items()}), **kwargs
        )

    def forward(self, observations: TensorDict) -> th.Tensor:
        """As in SB3."""
        return super().forward({_module_name(key): value for key, value in observations.items()})


def _module_name(key: str) -> str:
    return key.replace(".", "/")


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    Normalises vectors as SB3's ``VecNormalize`` does, then passes them to another extractor.

    It is part of each network, so ``predict``, calls of the policy and exported policies all normalise. Mean and standard
    deviation are buffers, saved with the network; until :func:`set_observation_statistics` sets them, observations pass
    unchanged.

    :param observation_space: Observation space: a vector, or a Dict, of which only the vectors are normalised.
    :param features_extractor_class: The other extractor; for None ``CombinedExtractor`` for a Dict and ``FlattenExtractor``
        for a vector.
    :param features_extractor_kwargs: Its arguments.
    :raises ValueError: when there is no vector among the observations.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        default = CombinedExtractor if isinstance(observation_space, spaces.Dict) else FlattenExtractor
        extractor: Any = (features_extractor_class or default)(observation_space, **(features_extractor_kwargs or {}))
        super().__init__(observation_space, extractor.features_dim)
        self.extractor = extractor
        self.keys = [key for key, space in _parts(observation_space).items() if is_vector_space(space)]
        if not self.keys:
            raise ValueError(
                f"normalize_observations=True needs vectors, not {observation_space}: wrap the environment in VecNormalize"
            )
        # By number: a key may contain a dot, a module's name may not.
        self.normalizers = nn.ModuleList(_Normalizer(_parts(observation_space)[key].shape or ()) for key in self.keys)

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: Preprocessed observations of B states, (B, D), or a dict of tensors.
        :return: Features, (B, features_dim).
        """
        if not isinstance(observations, dict):
            return self.extractor(self.normalizers[0](observations))
        normalized = {key: normalize(observations[key]) for key, normalize in zip(self.keys, self.normalizers, strict=True)}
        return self.extractor(observations | normalized)

    def set_statistics(self, statistics: dict[str, RunningMeanStd]) -> None:
        """:param statistics: Mean and variance of each vector, by its key; ``""`` where the observation is one vector."""
        for key, normalizer in zip(self.keys, self.normalizers, strict=True):
            assert isinstance(normalizer, _Normalizer)
            normalizer.mean.copy_(th.as_tensor(statistics[key].mean))
            normalizer.std.copy_(th.as_tensor(np.sqrt(statistics[key].var + EPSILON)))
            normalizer.clip.fill_(CLIP)


class _Normalizer(nn.Module):
    mean: th.Tensor
    std: th.Tensor
    clip: th.Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(shape))
        self.register_buffer("std", th.ones(shape))
        self.register_buffer("clip", th.tensor(float("inf")))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)


def default_extractor(policy_class: type) -> type[BaseFeaturesExtractor] | None:
    """
    :param policy_class: A class of policies.
    :return: The features extractor that it makes unless it is given another; None where its signature does not say.
    """
    for cls in policy_class.__mro__:
        constructor: Any = vars(cls).get("__init__")
        parameter = constructor and inspect.signature(constructor).parameters.get("features_extractor_class")
        if parameter:
            return None if parameter.default is inspect.Parameter.empty else parameter.default
    return None


def set_observation_statistics(policy: nn.Module, dataset: OfflineDataset) -> None:
    """
    Give each :class:`NormalizedExtractor` of a policy the dataset's mean and standard deviation.

    :param policy: The policy, with such extractors or without.
    :param dataset: The dataset.
    """
    extractors = [module for module in policy.modules() if isinstance(module, NormalizedExtractor)]
    if not extractors:
        return
    arrays: Any = dataset.observations if isinstance(dataset.observations, dict) else {"": dataset.observations}
    statistics = {key: set_moments(RunningMeanStd(shape=arrays[key].shape[1:]), arrays[key]) for key in extractors[0].keys}
    for extractor in extractors:
        extractor.set_statistics(statistics)


def is_vector_space(space: spaces.Space) -> bool:
    """
    :param space: An observation space.
    :return: Whether its observations are vectors of real numbers.
    """
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f" and not is_image_space(space)


def has_vectors(space: spaces.Space | None) -> bool:
    """
    :param space: An observation space, or None where it is not known.
    :return: Whether there is a vector of real numbers in it, which can be normalised.
    """
    return space is not None and any(is_vector_space(part) for part in _parts(space).values())


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
