"""Support constraint against distribution constraint on a line of states, solved exactly with BEAR's own backup."""

import numpy as np
import pytest
import torch as th

from sb3_pg_extras.offline.losses import mixed_target_q_values

N, LOWEST, GAMMA, HORIZON = 5, -10, 0.99, 2000
STATES = np.arange(LOWEST, N + 1)
RIGHT = 1
ABSORBING = (LOWEST == STATES) | (N == STATES)
# Probability of going right in the data; left of the start it never happens, so those values are never corrected.
BEHAVIOR = np.where(STATES >= 0, 0.1, 0.0)
UNSEEN_Q = 2.0


def q_iteration(policy_value) -> np.ndarray:
    """Fixed point of the backup whose value of the next state is ``policy_value(q)``; shape (states, 2)."""
    q = np.zeros((len(STATES), 2))
    terminations = th.as_tensor(ABSORBING, dtype=th.float64).unsqueeze(1)
    for _ in range(3000):
        value = policy_value(q)
        for action, step in ((0, -1), (RIGHT, 1)):
            following = np.clip(np.arange(len(STATES)) + step, 0, len(STATES) - 1)
            rewards = th.as_tensor((STATES[following] == N).astype(float)).unsqueeze(1)
            # A Bellman backup of one critic (C = 1) at the next states.
            backed_up = mixed_target_q_values(
                rewards, terminations[following], th.as_tensor(value[following]).unsqueeze(0), GAMMA, 0.75
            )
            q[:, action] = backed_up.squeeze(1).numpy()
        q[STATES < 0, RIGHT] = UNSEEN_Q
    return q


def reach_probability(go_right: np.ndarray) -> float:
    """Probability that the chain started at 0 has entered G = N within the horizon."""
    transition = np.zeros((len(STATES), len(STATES)))
    for index, absorbing in enumerate(ABSORBING):
        if absorbing:
            transition[index, index] = 1.0
        else:
            transition[index, index + 1], transition[index, index - 1] = go_right[index], 1 - go_right[index]
    start = (STATES == 0).astype(float)
    return float((start @ np.linalg.matrix_power(transition, HORIZON))[-1])


def greedy_within(allowed: np.ndarray) -> float:
    """Q-learning whose maximum runs over the allowed actions only, shape (states, 2)."""

    # An action that is not allowed is replaced by one that is: the maximum is over what remains.
    def values(q):
        return np.where(allowed, q, np.where(allowed, q, -np.inf).max(axis=1, keepdims=True))

    q = np.where(allowed, q_iteration(values), -np.inf)
    return reach_probability((q[:, RIGHT] > q[:, 0]).astype(float))


def kl_bounded(epsilon: float) -> float:
    """Q-learning whose policy maximises E[Q] subject to KL(policy || behaviour) <= epsilon in each state."""
    grid = np.linspace(1e-9, 1 - 1e-9, 200_001)
    kl = grid * np.log(grid / 0.1) + (1 - grid) * np.log((1 - grid) / 0.9)
    lowest, highest = grid[kl <= epsilon][[0, -1]]

    def go_right(q):
        return np.where(BEHAVIOR == 0, 0.0, np.where(q[:, RIGHT] > q[:, 0], highest, lowest))

    def values(q):
        p = go_right(q)
        return (p * q[:, RIGHT] + (1 - p) * q[:, 0])[:, np.newaxis]

    return reach_probability(go_right(q_iteration(values)))


def test_behavior_cloning():
    assert reach_probability(BEHAVIOR) == pytest.approx(1.5e-5, rel=0.02)


def test_support_constraint_reaches_the_goal():
    behavior = np.stack([1 - BEHAVIOR, BEHAVIOR], axis=1)
    assert greedy_within(behavior >= 0.05) == pytest.approx(1.0)


def test_without_a_constraint_unseen_actions_lead_astray():
    assert greedy_within(np.ones((len(STATES), 2), dtype=bool)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.05, 8.9e-4), (0.5, 0.16), (1.0, 0.55)])
def test_kl_constraint_stays_near_the_poor_behavior(epsilon, expected):
    assert kl_bounded(epsilon) == pytest.approx(expected, rel=0.02)
