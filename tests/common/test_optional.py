"""A package that is not installed: one line with the command that installs it."""

import json

import pytest

from sb3_pg_extras.common.optional import MissingPackageError, require
from sb3_pg_extras.datasets import DatasetError


def test_an_installed_package_is_imported():
    assert require("json", "any") is json


def test_a_missing_package_names_the_command():
    with pytest.raises(ImportError, match=r'^nowhere is not installed: pip install "sb3-pg-extras\[somewhere\]"'):
        require("nowhere.at.all", "somewhere")


def test_a_missing_package_is_no_dataset_error_and_not_what_the_zoo_prunes():
    assert not issubclass(MissingPackageError, (DatasetError, ValueError, AssertionError))
