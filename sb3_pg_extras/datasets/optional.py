"""Libraries that only some formats need: they are imported where they are used."""

import importlib
from typing import Any

from sb3_pg_extras.datasets.dataset import DatasetError


def require(module: str, extra: str) -> Any:
    """
    Import a library that the package does not depend on.

    :param module: The module.
    :param extra: The extra of this package that installs it.
    :return: The module.
    :raises DatasetError: when it is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise DatasetError(f'{library} is not installed: pip install "sb3-pg-extras[{extra}]" ({error})') from error
