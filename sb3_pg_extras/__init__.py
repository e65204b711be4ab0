"""REINFORCE, SingleStepA2C and BEAR for Stable-Baselines3 and the RL Zoo."""

from importlib.metadata import version

from sb3_pg_extras.bear import BEAR
from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset, normalized_score
from sb3_pg_extras.offline import OfflineAlgorithm
from sb3_pg_extras.optimizers import ObGD
from sb3_pg_extras.reinforce import REINFORCE
from sb3_pg_extras.single_step_a2c import STREAM_PRESET, SingleStepA2C

__version__ = version("sb3-pg-extras")

__all__ = [
    "BEAR",
    "REINFORCE",
    "STREAM_PRESET",
    "DatasetError",
    "ObGD",
    "OfflineAlgorithm",
    "OfflineDataset",
    "SingleStepA2C",
    "__version__",
    "load_dataset",
    "normalized_score",
]
