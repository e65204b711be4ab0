"""Logs of transitions: checked once, then read-only."""

from sb3_pg_extras.datasets.collect import collect_dataset
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.load import DatasetSource, bundled_dataset_for, load_dataset, save_dataset
from sb3_pg_extras.datasets.scores import normalized_score

__all__ = [
    "DatasetError",
    "DatasetSource",
    "OfflineDataset",
    "bundled_dataset_for",
    "collect_dataset",
    "load_dataset",
    "normalized_score",
    "save_dataset",
]
