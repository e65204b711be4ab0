"""BC: behaviour cloning."""

from sb3_pg_extras.bc.bc import BC

__all__ = ["BC"]
