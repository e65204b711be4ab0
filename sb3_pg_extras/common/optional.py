"""Packages that only some features need: they are imported where they are used."""

import importlib
from typing import Any


class MissingPackageError(ImportError):
    """An optional package is not installed. The message is the command that installs it."""


def require(module: str, extra: str) -> Any:
    """
    Import a module of an optional package.

    :param module: The module.
    :param extra: The extra of this package that installs it.
    :return: The module.
    :raises MissingPackageError: when it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(f'{package} is not installed: pip install "sb3-pg-extras[{extra}]" ({error})') from error
