"""TD3+BC: TD3 whose actor also clones the data."""

from sb3_pg_extras.td3_bc.td3_bc import TD3BC

__all__ = ["TD3BC"]
