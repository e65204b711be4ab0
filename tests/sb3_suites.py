"""
Stable-Baselines3's own tests with our classes in place of its own: ``python tests/sb3_suites.py``.

The tests of the installed version are cloned into a temporary folder; a path to a clone can be given instead of the address.
Each class stands once for the class of SB3 in ``PLACES``. Arguments that it does not have, such as ``buffer_size``, are left
out. One row per test that makes a model of the class goes to ``benchmarks/results/sb3_suites.csv``; docs/sb3_suites.md says
why some fail. Further arguments are pytest's.
"""

import argparse
import csv
import functools
import inspect
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3

import sb3_pg_extras

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "sb3_suites.csv"
PLACES = {"SingleStepA2C": "A2C", "REINFORCE": "A2C", "BEAR": "TD3", "BC": "TD3"}
# Where a test does not say otherwise.
SMALL: dict[str, Any] = {"n_collect_steps": 200, "batch_size": 16}
DEFAULTS = {"BEAR": SMALL, "BC": SMALL}


class Plugin:
    """Puts a class in the place of another and notes what came out of the tests that use it."""

    def __init__(self, name: str, results: Path) -> None:
        self.name, self.place, self.results = name, PLACES[name], results
        self.ours = getattr(sb3_pg_extras, name)
        self.theirs = {getattr(stable_baselines3, other) for other in ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")}
        self.used = False
        self.rows: list[list[str]] = []
        make = self.ours.__init__
        known = inspect.signature(make).parameters

        @functools.wraps(make)
        def init(model: Any, *args: Any, **kwargs: Any) -> None:
            self.used = True
            kwargs = {key: value for key, value in kwargs.items() if key in known}
            make(model, *args, **DEFAULTS.get(name, {}) | kwargs)

        self.ours.__init__ = init
        setattr(stable_baselines3, self.place, self.ours)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out what is about SB3's other algorithms, or none."""
        items[:] = [item for item in items if self._concerns(item)]

    def _concerns(self, item: Any) -> bool:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        classes = {value for value in parameters if isinstance(value, type)}
        if classes & self.theirs:
            return False
        mentioned = self.place in inspect.getsource(item.function) or self.place.lower() in item.nodeid
        return mentioned or self.ours in classes or any("model" in fixture for fixture in item.fixturenames)

    def pytest_runtest_setup(self) -> None:
        self.used = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
        report = yield
        if call.when == "call" and self.used:
            error = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}" if report.failed and call.excinfo else ""
            test = item.nodeid.removeprefix("tests/")
            why = re.sub(r"0x\w+|/tmp/\S+", "...", " ".join(error.split()))[:200]
            self.rows.append([self.name, test, report.outcome, why])
            with self.results.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(self.rows[-1])
        return report


def run(name: str, results: Path, pytest_arguments: list[str]) -> int:
    """
    :param name: The class to try, in the folder that the tests are in.
    :param results: CSV file to append to.
    :param pytest_arguments: For pytest.
    :return: pytest's status.
    """
    plugin = Plugin(name, results)
    files = [str(path) for path in sorted(Path("tests").glob("test_*.py")) if plugin.place in path.read_text()]
    status = pytest.main(
        [*files, "-q", "--tb=line", "--continue-on-collection-errors", "-p", "no:cacheprovider", *pytest_arguments],
        plugins=[plugin],
    )
    passed = sum(outcome == "passed" for _, _, outcome, _ in plugin.rows)
    print(f"{name} as {plugin.place}: {passed} of {len(plugin.rows)} passed")
    return int(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "source", nargs="?", default="https://github.com/DLR-RM/stable-baselines3", help="what git can clone"
    )
    parser.add_argument("--ref", default=f"v{stable_baselines3.__version__}", help="tag or commit of the tests")
    parser.add_argument("--classes", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args, pytest_arguments = parser.parse_known_args()
    if args.here:
        return run(args.classes[0], args.results, pytest_arguments)
    args.results.write_text("class,test,outcome,why\n")
    root, results = str(Path(__file__).resolve().parent.parent), str(args.results.resolve())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", args.source, folder], check=True)
        subprocess.run(["git", "checkout", args.ref, "--", "tests", "pyproject.toml"], cwd=folder, check=True)
        for name in args.classes:
            # A process each: a class is put in the place of another for good.
            own = [sys.executable, __file__, args.source, "--here", "--classes", name, "--results", results]
            subprocess.run([*own, *pytest_arguments], cwd=folder, env=environment, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
