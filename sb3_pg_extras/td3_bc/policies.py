"""SB3's TD3 policies, whose ``predict`` raises rather than return an action that is not a number."""

from stable_baselines3.td3 import policies

from sb3_pg_extras.offline.policies import FinitePolicy


class MlpPolicy(FinitePolicy, policies.MlpPolicy):
    """SB3's TD3 policy for vectors."""


class CnnPolicy(FinitePolicy, policies.CnnPolicy):
    """SB3's TD3 policy for images."""


class MultiInputPolicy(FinitePolicy, policies.MultiInputPolicy):
    """SB3's TD3 policy for Dict observations."""
