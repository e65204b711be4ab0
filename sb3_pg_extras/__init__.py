"""REINFORCE, SingleStepA2C, BEAR, BCQ, TD3+BC and BC for Stable-Baselines3 and the RL Zoo."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_pg_extras.bc import BC
    from sb3_pg_extras.bcq import BCQ
    from sb3_pg_extras.bear import BEAR, PUBLISHED_PRESET
    from sb3_pg_extras.common.wrappers import make_stream_env
    from sb3_pg_extras.datasets import DatasetError, OfflineDataset, load_dataset, normalized_score, save_dataset
    from sb3_pg_extras.offline.evaluation import FQE, FQECallback
    from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
    from sb3_pg_extras.reinforce import REINFORCE
    from sb3_pg_extras.single_step_a2c import STREAM_PRESET, SingleStepA2C
    from sb3_pg_extras.single_step_a2c.optimizers import ObGD
    from sb3_pg_extras.td3_bc import TD3BC

__version__ = version("sb3-pg-extras")

# Public name -> the module it is imported from when it is first asked for: who uses one algorithm waits for no other.
_HOME = {
    "BC": "bc",
    "BCQ": "bcq",
    "BEAR": "bear",
    "FQE": "offline.evaluation",
    "FQECallback": "offline.evaluation",
    "PUBLISHED_PRESET": "bear",
    "REINFORCE": "reinforce",
    "STREAM_PRESET": "single_step_a2c",
    "TD3BC": "td3_bc",
    "DatasetError": "datasets",
    "ObGD": "single_step_a2c.optimizers",
    "OfflineAlgorithm": "offline.offline_algorithm",
    "OfflineDataset": "datasets",
    "SingleStepA2C": "single_step_a2c",
    "load_dataset": "datasets",
    "make_stream_env": "common.wrappers",
    "normalized_score": "datasets",
    "save_dataset": "datasets",
}

__all__ = [
    "BC",
    "BCQ",
    "BEAR",
    "FQE",
    "PUBLISHED_PRESET",
    "REINFORCE",
    "STREAM_PRESET",
    "TD3BC",
    "DatasetError",
    "FQECallback",
    "ObGD",
    "OfflineAlgorithm",
    "OfflineDataset",
    "SingleStepA2C",
    "__version__",
    "load_dataset",
    "make_stream_env",
    "normalized_score",
    "save_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
