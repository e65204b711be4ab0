"""The rules of CONTRIBUTING.md that ``lint-imports`` cannot check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_pg_extras

PACKAGE = Path(sb3_pg_extras.__file__).parent
ROOT = Path(__file__).parent.parent


def modules_after(code: str) -> set[str]:
    """What a fresh process has imported."""
    code = f"{code}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_imports_nothing_heavy():
    modules = modules_after("import sb3_pg_extras; [getattr(sb3_pg_extras, name) for name in sb3_pg_extras.__all__]")
    heavy = {"rl_zoo3", "mujoco", "h5py", "minari", "pyarrow", "optuna", "ray", "scipy.stats", "matplotlib.pyplot"}
    assert not modules & heavy


@pytest.mark.parametrize("name", ["REINFORCE", "SingleStepA2C"])
def test_online_algorithms_import_no_dataset(name):
    modules = {name for name in modules_after(f"from sb3_pg_extras import {name}") if name.startswith("sb3_pg_extras.")}
    assert not {
        name for name in modules if name.split(".")[1] in ("datasets", "offline", "bear", "bc", "bcq", "td3_bc", "zoo")
    }
    if name == "REINFORCE":
        assert len([name for name in modules if name.count(".") > 1]) <= 10


def test_no_name_with_an_underscore_is_imported_by_another_package():
    taken = []
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("sb3_pg_extras."):
                continue
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            if private and node.module.split(".")[1] != package:
                taken.append(f"{path}: {private}")
    assert taken == []


def test_public_names_are_there():
    for name in sb3_pg_extras.__all__:
        assert getattr(sb3_pg_extras, name) is not None
    assert set(sb3_pg_extras.__all__) <= set(dir(sb3_pg_extras))
    with pytest.raises(AttributeError, match="no attribute 'DQN'"):
        sb3_pg_extras.DQN  # noqa: B018


def test_the_image_installs_what_there_is():
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [name for names in re.findall(r"^COPY (.*) /src", dockerfile, re.MULTILINE) for name in names.split()]
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "sb3_pg_extras", "hyperparams"}
    assert needed <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (torch,) = re.findall(r"torch==\S+", dockerfile)
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()
