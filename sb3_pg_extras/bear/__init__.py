"""BEAR: offline RL with a support constraint."""

from sb3_pg_extras.bear.bear import BEAR

__all__ = ["BEAR"]
