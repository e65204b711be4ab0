"""What policies of several algorithms share."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy


def environment_actions(policy: BasePolicy, actions: np.ndarray) -> np.ndarray:
    """
    What SB3's on-policy algorithms hand to the environment.

    :param policy: The policy that drew the actions.
    :param actions: shape (n_envs, *action_space.shape).
    :return: The same, scaled from [-1, 1] if the policy squashes its output, clipped to the action space if not.
    """
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    # What np.clip does, without its Python wrappers: they cost more than all else here.
    return np.minimum(np.maximum(actions, space.low), space.high)
