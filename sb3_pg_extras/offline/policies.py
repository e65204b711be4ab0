"""What the policies of offline algorithms share."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_pg_extras.offline.normalization import CLIP, EPSILON, is_vector_space

# The networks' outputs are made single precision at once, so that bf16 (BEAR's ``precision``) stays inside of them.


class NormalizingPolicy(BasePolicy):
    """
    A policy that normalises the vectors that ``predict`` is given as the dataset was normalised it learned from. What
    training hands to its networks is normalised already.
    """

    observation_mean: th.Tensor
    observation_std: th.Tensor
    observation_clip: th.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_vector_space(self.observation_space):
            shape = self.observation_space.shape or ()
            # Saved with the networks; until they are set they change nothing.
            self.register_buffer("observation_mean", th.zeros(shape, device=self.device))
            self.register_buffer("observation_std", th.ones(shape, device=self.device))
            self.register_buffer("observation_clip", th.tensor(float("inf"), device=self.device))

    def set_observation_statistics(self, rms: RunningMeanStd) -> None:
        """
        Normalise observations from now on.

        :param rms: Mean and variance, shape (observation dimensions,).
        """
        self.observation_mean.copy_(th.as_tensor(rms.mean))
        self.observation_std.copy_(th.as_tensor(np.sqrt(rms.var + EPSILON)))
        self.observation_clip.fill_(CLIP)

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """As in SB3's ``BaseModel``, normalised."""
        tensor, is_vectorized = super().obs_to_tensor(observation)
        if isinstance(tensor, th.Tensor) and is_vector_space(self.observation_space):
            tensor = (tensor.float() - self.observation_mean) / self.observation_std
            tensor = tensor.clamp(-self.observation_clip, self.observation_clip)
        return tensor, is_vectorized
