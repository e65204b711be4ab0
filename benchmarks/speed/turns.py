"""
What the speed programs share. Loops that are compared take turns, so that what slows the machine down for a while slows
all of them, and ratios are medians over the turns. Where memory or threads count, a loop is a process (:class:`Worker`).
"""

import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent.parent / "results"

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
EPISODE = 1000


def random_field(name: str, n_rows: int, n_observations: int, n_actions: int, seed: int = 0) -> np.ndarray:
    """:return: One of a dataset's fields: numbers within +-1, or episodes that time out."""
    if name in ("terminations", "truncations"):
        return (np.arange(1, n_rows + 1) % EPISODE == 0) & (name == "truncations")
    width = {"actions": (n_actions,), "rewards": ()}.get(name, (n_observations,))
    return np.tanh(np.random.default_rng(seed).standard_normal((n_rows, *width), dtype=np.float32))


class Worker:
    """A process that does as much work as a line on its input says, and answers with a line of JSON: see :func:`serve`."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def turn(self, amount: int = 1) -> dict[str, float]:
        """:return: The answer: ``seconds``, and what else the worker measured."""
        print(amount, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def speed(self, amount: int) -> float:
        """:return: How much of the work is done in a second."""
        return amount / self.turn(amount)["seconds"]

    def end(self) -> None:
        """Let the process finish."""
        self.process.stdin.close()
        self.process.wait()


def serve(work: Callable[[int], Any], **facts: float) -> None:
    """
    A worker's loop.

    :param work: Takes the amount of work.
    :param facts: What to add to each answer.
    """
    for line in sys.stdin:
        start = time.perf_counter()
        result = work(int(line))  # held until its memory is measured
        answer = {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes(), **facts}
        del result
        print(json.dumps(answer), flush=True)


def take_turns(loops: Mapping[str, Callable[[], float]], turns: int, warm_up: int = 1) -> dict[str, list[float]]:
    """
    :param loops: Each measures once, for instance steps per second.
    :param turns: How often each is measured.
    :param warm_up: Turns before these that do not count.
    :return: The figures of each loop, turn by turn.
    """
    figures: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(-warm_up, turns):
        for name, measure in loops.items():
            figure = measure()
            if turn >= 0:
                figures[name].append(figure)
                print(f"turn {turn}", name, f"{figure:.4g}", sep="\t", flush=True)
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """:return: The median of per-turn ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def summary(name: str, values: Sequence[float], digits: int) -> dict[str, str]:
    """:return: Columns: the median, under the given name, and the lowest and the highest turn."""
    figures = {name: statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {column: f"{figure:.{digits}f}" for column, figure in figures.items()}


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows to ``benchmarks/results/<name>.csv``, and print them."""
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text())


def reset_peak() -> int:
    """:return: Resident bytes; :func:`peak_bytes` counts from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """:return: Peak resident bytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
