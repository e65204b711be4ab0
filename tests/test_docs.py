"""The first lines that a reader of README and docs types."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```([^\n`]*)\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines of the shell blocks of a page, in order."""
    return [line for language, block in BLOCK.findall(page.read_text()) if not language for line in block.splitlines()]


def first(lines: list[str], part: str) -> int:
    return next(index for index, line in enumerate(lines) if part in line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_installed_from_an_index_that_does_not_have_it(page):
    assert not re.search(r"pip install [^`\n]*sb3[-_]pg[-_]extras", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for language, block in BLOCK.findall(page.read_text()):
        if language == "python":
            ast.parse(block)


def test_the_readme_activates_its_environment_before_the_first_command_of_the_package():
    lines = commands(ROOT / "README.md")
    assert first(lines, ". .venv/bin/activate") < first(lines, "pip install ") < first(lines, "sb3-pg-extras ")


@pytest.mark.parametrize("page", ["README.md", "docs/zoo.md"])
def test_mujoco_is_installed_and_a_dataset_is_made_before_it_is_trained_on(page):
    lines = commands(ROOT / page)
    assert first(lines, "[mujoco]") < first(lines, "Hopper-v5")
    made = first(lines, "-o hopper.npz")
    trained = next(index for index, line in enumerate(lines) if re.search("dataset[: ]hopper.npz", line))
    assert made < trained
