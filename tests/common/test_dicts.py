"""One array or a dict of arrays: both take the same path."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_pg_extras.common.dicts import arrays_of, map_arrays, named_arrays

ONE, TWO = np.array([1, 2]), np.array([[3, 4]])


def test_an_array_is_handed_to_the_function_as_it_is():
    assert map_arrays(lambda array: array is ONE, ONE) is True
    assert map_arrays(np.subtract, 5, 3) == 2
    assert arrays_of(ONE)[0] is ONE
    assert named_arrays("rewards", ONE) == [("rewards", ONE)]


def test_a_dict_keeps_its_keys_and_their_order():
    value = {"z": ONE, "a": TWO}
    assert list(map_arrays(np.shape, value).items()) == [("z", (2,)), ("a", (1, 2))]
    assert [array is expected for array, expected in zip(arrays_of(value), (ONE, TWO), strict=True)] == [True, True]
    assert named_arrays("observations", value) == [("observations['z']", ONE), ("observations['a']", TWO)]


def test_each_entry_meets_its_counterparts_whatever_their_order():
    assert map_arrays(lambda x, y, z: (x, y, z), {"a": 1, "b": 2}, {"b": 4, "a": 3}, {"a": 5, "b": 6, "c": 7}) == {
        "a": (1, 3, 5),
        "b": (2, 4, 6),
    }
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(3)})
    assert map_arrays(lambda array, space: array == space.n, {"a": 2, "b": 2}, space) == {"a": True, "b": False}


def test_a_key_that_a_counterpart_lacks_is_an_error():
    with pytest.raises(KeyError, match="b"):
        map_arrays(np.add, {"a": 1, "b": 2}, {"a": 3})
