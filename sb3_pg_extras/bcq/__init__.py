"""BCQ: offline RL with the actions of a behaviour model, slightly perturbed."""

from sb3_pg_extras.bcq.bcq import BCQ

__all__ = ["BCQ"]
