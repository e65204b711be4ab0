"""Normalised scores: 0 is a random policy, 100 an expert."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_pg_extras import OfflineDataset, normalized_score


def test_normalized_scores_by_hand(arrays):
    np.testing.assert_allclose(normalized_score("Hopper-v5", [-20.272305, 3234.3]), [0, 100])
    # Halfway between the references, whatever the version.
    np.testing.assert_allclose(normalized_score("Walker2d-v2", (1.629008 + 4592.3) / 2), 50)
    own = OfflineDataset(**arrays, env_id="Hopper-v5", reference_scores=(-10.0, 10.0))
    np.testing.assert_allclose(normalized_score(own, [[-10.0], [5.0], [20.0]]), [[0], [75], [150]])
    np.testing.assert_allclose(normalized_score(OfflineDataset(**arrays, env_id="Ant-v5"), 3879.7), 100)


@pytest.mark.parametrize(
    ("name", "random", "expert"),
    [
        ("hopper-medium-replay-v2", -20.272305, 3234.3),
        ("antmaze-umaze-diverse-v2", 0.0, 1.0),
        ("kitchen-mixed-v0", 0.0, 4.0),
        ("maze2d-umaze-v1", 23.85, 161.86),
        ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
        ("door-human-v1", -56.512833, 2880.5693087298737),
        ("AdroitHandDoor-v1", -56.512833, 2880.5693087298737),
    ],
)
def test_d4rl_names_find_the_references_of_their_task(name, random, expert):
    np.testing.assert_allclose(normalized_score(name, [random, expert]), [0, 100], atol=1e-12)


@pytest.mark.parametrize(
    ("source", "words"), [("CartPole-v1", "CartPole-v1"), ("Hopper", "'Hopper'"), (gym.make("CartPole-v1"), "CartPole-v1")]
)
def test_scores_without_references_are_refused_by_name(source, words):
    with pytest.raises(ValueError, match=words):
        normalized_score(source, 1.0)


def test_scores_need_two_different_references(arrays):
    with pytest.raises(ValueError, match=r"reference_scores: .* both score 3\.0"):
        normalized_score(OfflineDataset(**arrays, reference_scores=(3.0, 3.0)), 1.0)
    with pytest.raises(ValueError, match="None"):
        normalized_score(OfflineDataset(**arrays), 1.0)


@pytest.mark.parametrize("name", ["pendulum-mixed-v0", "antarctic-v1", "Hopperlike-v1"])
def test_a_task_whose_name_begins_like_another_has_no_reference(name):
    with pytest.raises(ValueError, match="no reference scores"):
        normalized_score(name, 1.0)


@pytest.mark.parametrize(
    ("name", "random", "expert"),
    [("carla-lane-v0", -0.8503839912088142, 1023.5784385429523), ("flow-merge-random-v0", 118.67993, 330.03179)],
)
def test_more_names_of_d4rl(name, random, expert):
    assert normalized_score(name, [random, expert]).tolist() == [0.0, 100.0]
