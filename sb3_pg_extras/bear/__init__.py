"""BEAR: offline RL with a support constraint."""

from sb3_pg_extras.bear.bear import BEAR, PUBLISHED_PRESET

__all__ = ["BEAR", "PUBLISHED_PRESET"]
