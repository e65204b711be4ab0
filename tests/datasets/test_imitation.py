"""Trajectories that the library imitation wrote, against a table worked out by hand, and changed ones."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from five_episodes import ACTION_SPACE, EPISODES, IMITATION, TABLE, assert_is_table, change_imitation
from gymnasium import spaces

from sb3_pg_extras import DatasetError, load_dataset
from sb3_pg_extras.datasets.episodes import Episode, from_episodes

# imitation has one flag: what is not terminal was cut.
IMITATION_TABLE = TABLE.replace("44  0  0", "44  0  1").replace("52  1  1", "52  1  0")


def test_imitation_by_hand():
    for source in (IMITATION, str(IMITATION)):
        dataset = load_dataset(source, ACTION_SPACE)
        assert_is_table(dataset, IMITATION_TABLE)
        assert dataset.action_space == ACTION_SPACE
    with pytest.raises(DatasetError, match=r"imitation.*'action_space' is missing"):
        load_dataset(IMITATION)


def with_column(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


def test_imitation_never_decodes_infos(tmp_path):
    evil = json.dumps({"py/reduce": [{"py/function": "subprocess.getoutput"}, {"py/tuple": [f"touch {tmp_path}/was-run"]}]})
    folder = change_imitation(tmp_path / "x", with_column("infos", [[evil] * steps for steps, _ in EPISODES.values()]))
    assert_is_table(load_dataset(folder, ACTION_SPACE), IMITATION_TABLE)
    assert not (tmp_path / "was-run").exists()


def test_imitation_of_images_and_discrete_actions_in_two_chunks(tmp_path):
    obs = [np.full((3, 8, 8, 3), n, np.uint8).tolist() for n in (0, 1)]
    table = pa.table(
        {
            "obs": pa.chunked_array([pa.array([o], pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))) for o in obs]),
            "acts": pa.chunked_array([pa.array([[0, 1]]), pa.array([[2, 0]])]),
            "rews": pa.chunked_array([pa.array([[0.0, 1.0]])] * 2),
            "terminal": pa.chunked_array([pa.array([True]), pa.array([False])]),
        }
    )
    dataset = load_dataset(change_imitation(tmp_path / "x", lambda _: table), spaces.Discrete(3))
    assert dataset.observation_space == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert dataset.observations[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert dataset.actions.tolist() == [0, 1, 2, 0]
    assert dataset.episode_ends.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["rews"]), ["'rews' is missing", "without rewards"]),
        (lambda t: t.drop_columns(["obs"]), ["'obs' is missing"]),
        (lambda t: t.rename_columns(["obs", "acts", "infos", "done", "rews"]), ["'terminal' is missing"]),
        (lambda t: t.slice(0, 0), ["no transitions"]),
        (with_column("acts", [1, 2, 3, 4, 5]), ["acts", "list", "int64"]),
        (with_column("acts", [["a"]] * 5), ["episode 0: acts", "numbers", "string"]),
        (with_column("rews", [[0.0, 1.0, 2.0], [0.0], [0.0], [0.0], [0.0]]), ["episode 1: observations has 3 rows"]),
        (with_column("rews", [[0.0, 1.0, float("nan")], None, [0.0], [0.0], [0.0]]), ["episode 0: rews row 2", "nan"]),
        (with_column("rews", [None, [0.0], [0.0], [0.0], [0.0]]), ["episode 0: rews", "null"]),
        (with_column("obs", [[[1.0], [2.0], [3.0, 4.0], [5.0]]] * 5), ["episode 0: obs row 2 has 2"]),
        (with_column("obs", [[[1.0], [2.0], None, [5.0]]] * 5), ["episode 0: obs row 2", "null"]),
        (with_column("obs", [[[1.0], [2.0], [None], [5.0]]] * 5), ["episode 0: obs row 2", "null"]),
        (with_column("terminal", [True, None, True, True, True]), ["terminal row 1", "null"]),
    ],
)  # fmt: skip
def test_wrong_content_of_imitation_is_named(tmp_path, change, words):
    folder = change_imitation(tmp_path / "x", change)
    with pytest.raises(DatasetError) as error:
        load_dataset(folder, ACTION_SPACE)
    for word in [*words, str(folder)]:
        assert word in str(error.value)


def test_episodes_of_imitation_are_numbered_across_batches(tmp_path):
    one = pa.table({"obs": [[[0.0], [1.0]]], "acts": [[[0.0]]], "rews": [[1.0]], "terminal": [True]})
    wrong = one.set_column(2, "rews", pa.array([[float("nan")]]))
    folder = change_imitation(tmp_path / "x", lambda _: pa.concat_tables([one, one, wrong]))
    with pytest.raises(DatasetError, match="episode 2: rews row 0 is not finite"):
        load_dataset(folder, ACTION_SPACE)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"_data_files": [{"filename": "../../x"}]}', '{"_data_files": []}'])
def test_wrong_state_of_imitation_is_named(tmp_path, state):
    shutil.copytree(IMITATION, tmp_path / "x")
    (tmp_path / "x" / "state.json").write_text(state)
    with pytest.raises(DatasetError, match="x"):
        load_dataset(tmp_path / "x", ACTION_SPACE)


def test_an_episode_that_lacks_its_rewards_is_not_passed_over():
    whole = Episode("episode 0", np.zeros((3, 1)), np.zeros((2, 1)), np.zeros(2), np.zeros(2), np.arange(2))
    empty = Episode("episode 1", np.zeros((3, 1)), np.zeros((2, 1)), np.zeros(0), np.zeros(2), np.arange(2))
    with pytest.raises(DatasetError, match="episode 1: rewards"):
        from_episodes([whole, empty], ACTION_SPACE)
    nothing = Episode("episode 1", np.zeros((1, 1)), np.zeros((0, 1)), np.zeros(0), np.zeros(0), np.zeros(0))
    assert len(from_episodes([whole, nothing], ACTION_SPACE)) == 2
