"""
The RL Zoo's own tests through our command, with our algorithms among those that they try:
``git clone https://github.com/DLR-RM/rl-baselines3-zoo && python tests/zoo/upstream_tests.py rl-baselines3-zoo``.

Where the tests start ``python train.py`` or ``python -m rl_zoo3.benchmark``, they start ``sb3-pg-extras train`` and so on
here, with the installed RL Zoo. The trained agents that they would download are trained first, for a few steps. One row per
test goes to ``benchmarks/results/zoo_tests.csv``. Further arguments are pytest's.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import rl_zoo3.utils

from sb3_pg_extras.zoo import ALGORITHMS, COMMANDS, register

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results" / "zoo_tests.csv"
OFFLINE = ("bc", "bcq", "bear", "td3_bc")
EXPERIMENTS = [(algo, "Pendulum-v1" if algo in OFFLINE else "CartPole-v1") for algo in ALGORITHMS]
OURS = {f"{algo}-{env_id}": (algo, env_id) for algo, env_id in EXPERIMENTS}
# Those that the tests find in the zoo's collection of trained agents, and ours.
AGENTS = [("a2c", "CartPole-v1"), ("sac", "Pendulum-v1"), *OURS.values()]


def ours(command: Any) -> Any:
    """
    :param command: What a test starts.
    :return: The same by our command, where it is one of the zoo's.
    """
    if not isinstance(command, list) or command[0] != "python":
        return command
    script, rest = (command[2], command[3:]) if command[1] == "-m" else (command[1], command[2:])
    name = script.removeprefix("rl_zoo3.").removesuffix(".py")
    return [sys.executable, "-m", "sb3_pg_extras.zoo", name, *rest] if name in COMMANDS else [sys.executable, *command[1:]]


class Redirected(subprocess.Popen):
    """A process of a test, started by our command."""

    def __init__(self, args: Any, *more: Any, **kwargs: Any) -> None:
        super().__init__(ours(args), *more, **kwargs)


class Plugin:
    """Adds our algorithms to the zoo's tables of experiments, and notes what came out."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "experiment" in metafunc.fixturenames:
            metafunc.module.experiments.update(OURS)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
            self.rows.append(
                {"test": report.nodeid, "outcome": report.outcome if report.when == "call" else "skipped", "why": why}
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of DLR-RM/rl-baselines3-zoo")
    args, pytest_arguments = parser.parse_known_args()
    if not (args.checkout / "tests" / "test_train.py").is_file():
        parser.error(f"{args.checkout}: not a checkout of rl-baselines3-zoo, tests/test_train.py is missing")
    # Videos go to files: no X server is needed for the tests that ask for one.
    os.environ.setdefault("DISPLAY", "none")
    register()
    # No network.
    rl_zoo3.utils.get_hf_trained_models = dict
    with tempfile.TemporaryDirectory() as folder:
        # Without the checkout's own package: it is the installed one that is tried.
        shutil.copytree(args.checkout, folder, ignore=shutil.ignore_patterns("rl_zoo3", ".git", "logs"), dirs_exist_ok=True)
        os.chdir(folder)
        for algo, env_id in AGENTS:
            command = ["python", "train.py", "--algo", algo, "--env", env_id, "-n", "300", "--eval-freq", "-1"]
            subprocess.run(ours([*command, "-f", "rl-trained-agents"]), check=True, capture_output=True)
        subprocess.Popen = Redirected  # type: ignore[misc]
        plugin = Plugin()
        status = pytest.main(["tests", "-p", "no:cacheprovider", "-m", "", "-v", *pytest_arguments], plugins=[plugin])
    if not pytest_arguments:
        pd.DataFrame(plugin.rows).to_csv(RESULTS, index=False)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
