"""REINFORCE: the Monte-Carlo policy gradient."""

from sb3_pg_extras.reinforce.reinforce import REINFORCE

__all__ = ["REINFORCE"]
