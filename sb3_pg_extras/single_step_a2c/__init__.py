"""SingleStepA2C: the one-step actor-critic, and Stream AC(lambda) on top of it."""

from sb3_pg_extras.single_step_a2c.policies import STREAM_PRESET, StreamPolicy
from sb3_pg_extras.single_step_a2c.single_step_a2c import SingleStepA2C

__all__ = ["STREAM_PRESET", "SingleStepA2C", "StreamPolicy"]
