"""SingleStepA2C: the one-step actor-critic."""

from sb3_pg_extras.single_step_a2c.single_step_a2c import STREAM_PRESET, SingleStepA2C

__all__ = ["STREAM_PRESET", "SingleStepA2C"]
