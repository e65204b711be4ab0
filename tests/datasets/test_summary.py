"""What is in a dataset: its numbers by hand, and its picture."""

import os

import matplotlib.image
import numpy as np
import pytest
from conftest import make_arrays
from gymnasium import spaces

from sb3_pg_extras import OfflineDataset
from sb3_pg_extras.datasets.summary import (
    action_coverage,
    aligned,
    distributions,
    facts,
    image_observations,
    project,
    statistics,
)


def make(observations=None, actions=None, rewards=None, space=None, observation_space=None, **fields) -> OfflineDataset:
    """Six steps: two to a terminal state, three to a time limit, one that the data cuts."""
    terminations, truncations = np.arange(6) == 1, np.arange(6) == 4
    observations = np.zeros((6, 1)) if observations is None else observations
    if observation_space is None:
        observation_space = spaces.Box(-np.inf, np.inf, np.shape(observations)[1:])
    rewards = [1, 2, 10, 20, 30, 100] if rewards is None else rewards
    return OfflineDataset(
        observations, np.zeros((6, 1)) if actions is None else actions, rewards, observations,
        terminations, truncations, observation_space, space or spaces.Box(-2, 2, (1,)), **fields,
    )  # fmt: skip


def test_statistics_by_hand():
    # Deviations from 3: -2, -1, 0, 3; squares 4 + 1 + 0 + 9, of which the mean is 3.5.
    expected = {"mean": 3, "std": 3.5**0.5, "min": 1, "25%": 1.75, "median": 2.5, "75%": 3.75, "max": 6}
    assert statistics([3, 1, 6, 2]) == pytest.approx(expected)


def test_facts_by_hand():
    found = facts(make(np.zeros((6, 250_000)), env_id="X-v0"))
    assert (found["episodes"], found["steps"], found["environment"]) == (3, 6, "X-v0")
    assert [value for name, value in found.items() if name.startswith("  ")] == [1, 1, 1]
    # Observations and next observations: 2 times 6 times 250,000 float32; the rest is less than 0.05 MB.
    assert found["memory"] == "12.0 MB"
    assert facts(make())["environment"] == "not named in the data"


def test_distributions_by_hand():
    found = distributions(make(reference_scores=(0.0, 30.0)))
    # The cut episode has no return; lengths are of all.
    assert (found["return"]["min"], found["return"]["mean"], found["return"]["max"]) == (3, 31.5, 60)
    assert (found["episode length"]["min"], found["episode length"]["mean"], found["episode length"]["max"]) == (1, 2, 3)
    assert found["reward"]["median"] == 15
    # (3 - 0) / 30 and (60 - 0) / 30.
    assert (found["normalized score"]["min"], found["normalized score"]["max"]) == (10, 200)


def test_without_references_there_are_no_normalized_scores():
    assert "normalized score" not in distributions(make())
    assert "normalized score" not in distributions(make(reference_scores=(1.0, 1.0)))


def test_an_episode_that_is_terminated_and_truncated_counts_as_terminal():
    arrays = make_arrays(20) | {"terminations": np.arange(20) % 10 == 9, "truncations": np.arange(20) % 10 == 9}
    found = facts(OfflineDataset(**arrays))
    assert [value for name, value in found.items() if name.startswith("  ")] == [2, 0, 0]


def test_action_coverage_of_a_box_by_hand():
    actions = np.array([[-2, 0], [2, 0], [0, 1], [0.1, 1], [0, 4], [-0.1, 0]], np.float32)
    first, second = action_coverage(make(actions=actions, space=spaces.Box(np.array([-2, -np.inf]), np.array([2, np.inf]))))
    assert (first["min"], first["max"], first["mean"]) == (-2, 2, 0)
    # Bins of width 0.4 from -2: numbers 0, 9, 5 (0 and 0.1) and 4 (-0.1).
    assert (first["at bound"], first["bins used"]) == (2 / 6, 0.4)
    # (4 + 4 + 0.01 + 0.01) / 6.
    assert first["std"] == pytest.approx((8.02 / 6) ** 0.5)
    # Without bounds the bins are from 0 to 4: numbers 0, 2 and 9.
    assert (second["at bound"], second["bins used"], second["max"]) == (None, 0.3, 4)


def test_an_action_outside_by_its_rounding_is_in_the_last_bin_and_at_the_bound():
    (coverage,) = action_coverage(make(actions=np.full((6, 1), np.float32(2.0001))))
    assert (coverage["at bound"], coverage["bins used"]) == (1, 0.1)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (spaces.Discrete(4, start=-1), [-1, 2, 2, -1, 2, 0], [{-1: 2, 0: 1, 1: 0, 2: 3}]),
        (spaces.MultiDiscrete([2, 3]), [[0, 2]] * 6, [{0: 6, 1: 0}, {0: 0, 1: 0, 2: 6}]),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), [[2, 1]] * 6, [{1: 0, 2: 6}, {-1: 0, 0: 0, 1: 6}]),
        (spaces.MultiBinary(2), [[0, 1]] * 5 + [[1, 1]], [{0: 5, 1: 1}, {0: 0, 1: 6}]),
        # So many values are not listed.
        (spaces.Discrete(10**12), [7, 7, 7, 9, 9, 7], [{7: 4, 9: 2}]),
    ],
)
def test_action_coverage_of_choices_by_hand(space, actions, expected):
    assert action_coverage(make(actions=np.array(actions), space=space)) == expected


def test_projection_by_hand():
    t, s = np.array([-1, -1, 1, 1, 0, 0]), np.array([-1, 1, -1, 1, 0, 0])
    # Two columns that are one another's multiple make the first component, the independent one the second.
    rows, points, explained = project(make(np.stack([5 + 3 * t, -t, 7 * s, np.full(6, 4)], axis=1)))
    scale = (4 / 6) ** 0.5  # the standard deviation of t and of s
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(2**0.5 * t / scale), atol=1e-6)
    np.testing.assert_allclose(points[:, 1], s / scale, atol=1e-6)
    np.testing.assert_allclose(explained, [2 / 3, 1 / 3], atol=1e-6)


def test_projection_of_one_number_and_of_nothing_that_changes():
    _, points, explained = project(make(np.array([-1, 1, -1, 1, -1, 1])[:, np.newaxis]))
    np.testing.assert_allclose(points, [[-1, 0], [1, 0]] * 3, atol=1e-6)
    np.testing.assert_allclose(explained, [1, 0], atol=1e-6)
    _, points, explained = project(make())
    assert not points.any()
    assert not explained.any()


def test_projection_draws_the_same_rows_each_time():
    dataset = OfflineDataset(**make_arrays(200))
    rows, points, _ = project(dataset, max_points=50)
    assert (len(set(rows.tolist())), points.shape) == (50, (50, 2))
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(project(dataset, max_points=50)[0], rows)


def with_images(**fields) -> OfflineDataset:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((6, 36, 36, 3), 40, np.uint8)
    observations = {"goal": np.arange(6.0)[:, np.newaxis], "image": images}
    space = spaces.Dict(goal=spaces.Box(-9, 9, (1,)), image=spaces.Box(0, 255, (36, 36, 3), np.uint8))
    return make(observations, observation_space=space, **fields)


def test_images_are_found_and_not_projected():
    dataset = with_images()
    images, space = image_observations(dataset)
    assert (images.shape, space) == ((6, 36, 36, 3), dataset.observation_space["image"])
    assert image_observations(make()) is None
    # Only the goal, 0 to 5, is left.
    np.testing.assert_allclose(project(dataset)[1][:, 0], (np.arange(6) - 2.5) / np.arange(6).std(), rtol=1e-6)


STACKED = spaces.Box(0, 255, (4, 36, 36), np.uint8)


@pytest.mark.parametrize(
    "dataset",
    [
        make(),
        with_images(),
        make(np.zeros((6, 4, 36, 36), np.uint8), observation_space=STACKED, actions=np.arange(6), space=spaces.Discrete(6)),
        make(actions=np.array([[0, 2]] * 6), space=spaces.MultiDiscrete([2, 3])),
        make(actions=np.zeros((6, 2)), space=spaces.Box(np.array([-1, -np.inf]), np.array([1, np.inf]))),
        make(rewards=np.full(6, 1e9)),
    ],
)
def test_every_kind_of_dataset_is_drawn(dataset, tmp_path):
    dataset.plot(tmp_path / "new" / "x.png", "x")
    picture = matplotlib.image.imread(tmp_path / "new" / "x.png")
    assert picture.shape[:2] == (342, 1080)
    assert np.ptp(picture[..., :3]) > 0.5
    assert os.listdir(tmp_path / "new") == ["x.png"]
    assert all(len(line) < 130 for line in dataset.summary().splitlines())


@pytest.mark.parametrize("channels_first", [False, True])
def test_contact_sheet_shows_the_images(tmp_path, channels_first):
    """Pictures with an orange upper half make orange spots, which nothing else in the figure is, wider than high."""
    images = np.zeros((6, 36, 36, 3), np.uint8)
    images[:, :18] = (255, 128, 0)
    images = images.transpose(0, 3, 1, 2) if channels_first else images
    make(images, observation_space=spaces.Box(0, 255, images.shape[1:], np.uint8)).plot(tmp_path / "x.png")
    picture = matplotlib.image.imread(tmp_path / "x.png")[..., :3]
    orange = np.abs(picture - np.array([1, 128 / 255, 0])).max(axis=-1) < 0.01
    assert orange[:, 720:].sum() > 6 * 40 * 20
    assert not orange[:, :700].any()
    width, height = (max(len(run) for line in mask for run in "".join(" x"[int(p)] for p in line).split() or [""])
                     for mask in (orange, orange.T))  # fmt: skip
    assert width > 1.5 * height


def test_how_close_to_a_bound_an_action_is_at_it():
    """A ten-thousandth of the width, 4."""
    actions = np.array([2 - 3e-4, 2 - 5e-4, -2 + 3e-4, -2 + 5e-4, 1.97, 0])[:, np.newaxis]
    assert action_coverage(make(actions=actions))[0]["at bound"] == pytest.approx(2 / 6)


def test_a_bound_on_one_side_alone_has_no_share():
    space = spaces.Box(np.array([0.0]), np.array([np.inf]), dtype=np.float32)
    assert action_coverage(make(actions=np.arange(6.0)[:, np.newaxis], space=space))[0]["at bound"] is None


@pytest.mark.parametrize(("n", "listed"), [(100, 100), (101, 2)])
def test_up_to_a_hundred_choices_are_listed(n, listed):
    (counts,) = action_coverage(make(actions=np.array([7, 7, 7, 9, 9, 7]), space=spaces.Discrete(n)))
    assert len(counts) == listed and counts[7] == 4


def test_the_shares_of_choices_are_printed():
    lines = make(actions=np.array([0, 0, 0, 1, 1, 0]), space=spaces.Discrete(2)).summary().splitlines()
    assert lines[-2].split() == ["action", "=", "0", "4", "66.7%"]
    assert lines[-1].split() == ["action", "=", "1", "2", "33.3%"]


def test_large_numbers_are_printed_whole_whatever_their_sign():
    assert aligned({"x": {"min": -123456.0, "max": 123456.0}})[1].split() == ["x", "-123456", "123456"]
