"""Parts of a dataset: episodes, splits, filters, samples, and datasets put together."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_arrays
from gymnasium import spaces

from sb3_pg_extras import DatasetError, OfflineDataset


@pytest.fixture
def dataset() -> OfflineDataset:
    """Four episodes of 10 rows whose returns are 10, 30, 20, 0; the last one just stops."""
    arrays = make_arrays() | {"rewards": np.repeat([1.0, 3.0, 2.0, 0.0], 10)}
    arrays["terminations"][-1] = arrays["truncations"][-1] = False
    return OfflineDataset(**arrays)


def same(left: OfflineDataset, right: OfflineDataset) -> bool:
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations", "episode_ends")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


def test_episodes_are_views_that_make_up_the_whole(dataset):
    episodes = list(dataset.episodes())
    assert [episode.rewards.sum() for episode in episodes] == [10, 30, 20, 0]
    assert all(np.shares_memory(episode.observations, dataset.observations) for episode in episodes)
    assert same(episodes[0].concatenate(*episodes[1:]), dataset)


def test_rows_keep_the_episodes_that_they_cut(dataset):
    part = dataset[5:25]
    assert part.episode_ends.tolist() == [5, 15, 20]
    assert part.rewards.tolist() == [1.0] * 5 + [3.0] * 10 + [2.0] * 5
    assert not part.terminations[-1]
    assert same(dataset[:], dataset)
    with pytest.raises(TypeError, match=r"dataset\[0\]: must be a slice"):
        dataset[0]
    for rows in (slice(3, 3), slice(0, 10, 2), slice(50, 60)):
        with pytest.raises(DatasetError, match="of 40 transitions: must be successive rows"):
            dataset[rows]


def test_split_is_by_whole_episodes(dataset):
    train, held_out = dataset.split(0.75, seed=1)
    assert (train.n_episodes, held_out.n_episodes) == (3, 1)
    returns = [part.rewards.reshape(-1, 10).sum(axis=1).tolist() for part in (train, held_out)]
    assert sorted(returns[0] + returns[1]) == [0, 10, 20, 30]
    assert same(train, dataset.split(0.75, seed=1)[0])
    assert len({dataset.split(0.75, seed=seed)[1].rewards[0] for seed in range(20)}) == 4
    train, held_out = dataset.split(0.5, seed=None)
    assert same(train.concatenate(held_out), dataset)
    with pytest.raises(DatasetError, match=r"split\(0.9\) of 4 episodes leaves one part empty"):
        dataset.split(0.9)
    with pytest.raises(ValueError, match="fraction=1"):
        dataset.split(1)


def test_filter_keeps_what_meets_every_condition(dataset):
    def returns(**conditions):
        return dataset.filter_episodes(**conditions).rewards.reshape(-1, 10).sum(axis=1).tolist()

    assert returns(top=0.5) == [30, 20]
    assert returns(top=0.01) == [30]
    assert returns(min_return=10) == [10, 30, 20]
    assert returns(predicate=lambda episode: episode.truncations.any()) == [30]
    assert returns(top=0.5, predicate=lambda episode: episode.rewards[0] < 3) == [20]
    with pytest.raises(DatasetError, match=r"no episode of 4 is left.*min_return=31.*from 0 to 30"):
        dataset.filter_episodes(min_return=31)
    with pytest.raises(ValueError, match="top=0"):
        dataset.filter_episodes(top=0)


def test_sample_draws_transitions(dataset):
    batch = dataset.sample(1000, seed=0)
    assert batch["observations"].shape == (1000, 3)
    assert np.unique(batch["rewards"]).tolist() == [0, 1, 2, 3]
    rows = [np.flatnonzero((dataset.observations == obs).all(axis=1))[0] for obs in batch["observations"][:20]]
    assert np.array_equal(dataset.next_observations[rows], batch["next_observations"][:20])
    assert np.array_equal(batch["rewards"], dataset.sample(1000, seed=0)["rewards"])


def test_concatenate_needs_equal_spaces(dataset):
    other = OfflineDataset(**make_arrays() | {"action_space": spaces.Box(-5, 5, (2,))})
    with pytest.raises(DatasetError, match="action_space differs"):
        dataset.concatenate(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("env_id", "Hopper-v5"), ("env_id", None), ("reference_scores", (0.0, 2.0)), ("reference_scores", None)],
)
def test_concatenate_keeps_only_the_origin_that_all_share(dataset, name, value):
    known = {"env_id": "Pendulum-v1", "reference_scores": (0.0, 1.0)}
    first = replace(dataset, **known)
    other = replace(first, **{name: value})
    for parts, expected in (([first] * 3, known), ([first, first, other], known | {name: None})):
        whole = parts[0].concatenate(*parts[1:])
        assert {key: getattr(whole, key) for key in known} == expected
    assert getattr(other.concatenate(first), name) is None


def test_dict_observations_are_split_too():
    arrays = make_arrays()
    space = spaces.Dict({"a": arrays.pop("observation_space")})
    arrays |= {name: {"a": arrays[name]} for name in ("observations", "next_observations")}
    train, held_out = OfflineDataset(**arrays, observation_space=space).split(0.5)
    assert train.observations["a"].shape == held_out.observations["a"].shape == (20, 3)
    assert train.concatenate(held_out).sample(5)["next_observations"]["a"].shape == (5, 3)


def test_all_episodes_are_the_best_of_all(dataset):
    assert dataset.filter_episodes(top=1).n_episodes == 4


def test_the_last_row_is_drawn_too(dataset):
    drawn = dataset[:3].sample(200, seed=0)["observations"]
    assert len(np.unique(drawn, axis=0)) == 3
