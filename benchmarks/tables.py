"""
Put the tables of benchmark results into README and docs: ``python benchmarks/tables.py`` (``--check`` only compares).

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; nothing in it is written by hand. Where it has several
seeds, it shows their mean, and their interquartile mean (IQM) with a 95% percentile bootstrap interval, as Agarwal et al. (2021,
arXiv:2108.13264) recommend.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
IQM = "IQM (95% interval)"
SPEED_UP = "speed-up of the first (median of per-turn ratios)"
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """:return: The rows of a result file by seed, with what was logged beside the other columns."""
    with open(RESULTS / f"{name}.csv") as file:
        rows: list[Row] = [row | json.loads(row.get("logged", "{}")) for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: int(row.get("seed", 0)))


def groups(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """:return: The rows by the values of some columns."""
    result: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        result.setdefault(tuple(row[column] for column in columns), []).append(row)
    return result


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """:return: A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n"


def column(rows: Iterable[Row], name: str, digits: int) -> list[str]:
    """:return: A column's values, seed by seed."""
    return [f"{float(row[name]):.{digits}f}" for row in rows]


def mean_and_iqm(rows: Iterable[Row], name: str, digits: int) -> list[str]:
    """:return: Mean, and interquartile mean with its interval where there are several seeds."""
    values = np.array([float(row[name]) for row in rows])
    mean = f"**{values.mean():.{digits}f}**"
    if len(values) == 1:
        return [mean, ""]
    iqm = partial(trim_mean, proportiontocut=0.25)
    low, high = bootstrap((values,), iqm, method="percentile", rng=0).confidence_interval
    return [mean, f"{iqm(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"]


def bear_pendulum() -> str:
    """The zoo's Pendulum-v1 entry, seed by seed, between what the data hold and the agent that made them."""
    rows = [row for row in read("bear_pendulum") if row["variant"] == "zoo entry (unbiased, 0.1)"]
    data, expert = rows[0]["dataset_return"], rows[0]["expert_return"]
    ends = [f"{data:.0f}", f"{(data + expert) / 2:.0f}", f"{expert:.0f}"]
    columns = [column(rows, name, 0) for name in ("cloning_return", "cloning_sampled_return", "return_mean")]
    lines = [
        [f"seed {row['seed']}", ends[0], f"{greedy} ({sampled})", f"**{bear}**", *ends[1:]]
        for row, greedy, sampled, bear in zip(rows, *columns, strict=True)
    ]
    lines.append([IQM, "", "", mean_and_iqm(rows, "return_mean", 0)[1], "", ""])
    return markdown(
        ["", "the data", "behaviour cloning, greedy (sampled)", "BEAR", "halfway", "SAC that made the data"], lines
    )


def bear_pendulum_variants() -> str:
    """What each variant of the constraint comes to."""
    lines = []
    for (variant,), own in sorted(groups(read("bear_pendulum"), "variant").items()):
        seeds, alphas = (", ".join(column(own, name, 0)) for name in ("return_mean", "train/alpha"))
        lines.append([variant, *mean_and_iqm(own, "return_mean", 0), seeds, alphas])
    return markdown(["variant", "mean return", IQM, "seed by seed", "alpha at the end"], lines)


def bear_hopper() -> str:
    """Hopper-v5's medium-replay dataset, in full and faster."""
    lines = []
    for (variant,), own in groups(read("bear_hopper"), "variant").items():
        seeds, cloning = (", ".join(column(own, name, 0)) for name in ("return_mean", "cloning_return"))
        checkpoints = "; ".join(re.sub(r"\.\d", "", row["last_evaluations"]) for row in own)
        lines.append([variant, *mean_and_iqm(own, "return_mean", 0), seeds, checkpoints, cloning])
    return markdown(["", "mean", IQM, "seed by seed", "last five checkpoints", "cloning from the same VAE"], lines)


def fine_tune() -> str:
    """Mean return over seeds along the online steps."""
    shown = ["0", "500", "1000", "2000", "4000", "8000"]
    lines = []
    for (variant,), own in groups(read("fine_tune"), "variant").items():
        means = [f"{np.mean([row['evaluations'][steps] for row in own]):.0f}" for steps in shown]
        late = [value for row in own for steps, value in row["evaluations"].items() if int(steps) >= 4_000]
        lines.append([variant, len(own), *means, mean_and_iqm(own, "return_mean", 0)[1], f"{min(late):.0f}"])
    last = [f"last five evaluations: {IQM}", "worst evaluation from step 4000 on"]
    return markdown(["", "seeds", *(f"step {steps}" for steps in shown), *last], lines)


def reinforce_default() -> str:
    """CartPole-v1 out of the box."""
    rows = [row for row in read("reinforce") if row["variant"] == "default"]
    line = [*mean_and_iqm(rows, "return_mean", 1), *column(rows, "return_mean", 1)]
    return markdown(["mean", IQM, *(f"seed {row['seed']}" for row in rows)], [line])


def training_returns(rows: Iterable[Row], header: Sequence[str], *more: tuple[str, int]) -> str:
    """Returns of the last training episodes by variant, and further columns, seed by seed."""
    lines = []
    for (name,), own in sorted(groups(rows, "variant").items()):
        seeds = [", ".join(column(own, *which)) if which[0] in own[0] else "" for which in (("train_return", 1), *more)]
        lines.append([name, *mean_and_iqm(own, "train_return", 1), *seeds])
    return markdown([header[0], "mean", IQM, "seed by seed", *header[1:]], lines)


def single_step(env_ids: tuple[str, ...], header: Sequence[str], *more: tuple[str, int]) -> str:
    """SingleStepA2C and the scripts on some environments."""
    rows = [row | {"variant": f"{row['env']}: {row['variant']}"} for row in read("single_step_a2c") if row["env"] in env_ids]
    return training_returns(rows, ["last 100 episodes", *header], *more)


def reinforce_exercises() -> str:
    """The two exercises, ours and the scripts'."""
    rows = (row for row in read("reinforce") if row["variant"] != "default")
    return training_returns(rows, ["exercise", GREEDY[0]], GREEDY[1])


def zoo_entries(algorithm: str) -> str:
    """Entries of the hyper-parameter file as they stand, and earlier versions of them that were run."""
    rows = [row for row in read("zoo_entries") if row["algorithm"] == algorithm]
    lines = []
    for (env_id, entry), own in sorted(groups(rows, "env", "variant").items(), key=lambda item: item[0][0]):
        seeds = ", ".join(f"{row['return_mean']} +/- {row['return_std']}" for row in own)
        lines.append([env_id, own[0]["n_timesteps"], *mean_and_iqm(own, "return_mean", 1), seeds, f"`{entry}`"])
    return markdown(["environment", "steps", "mean return", IQM, "seed by seed +/- std of episodes", "entry"], lines)


def trained_agents() -> str:
    """The agents in ``rl-trained-agents/``."""
    columns = ["algorithm", "env", "return_mean", "return_std", "episodes", "kilobytes"]
    lines = sorted([row[name] for name in columns] for row in read("trained_agents"))
    return markdown(["algorithm", "environment", "mean return", "std", "episodes", "kB"], lines)


def kills() -> str:
    """Workers killed with SIGKILL."""
    lines = []
    for (what,), own in groups(read("kills"), "what").items():
        lines.append(
            [what, len(own), *(sum(int(row[name]) for row in own) for name in ("asked", "finished", "lost", "twice"))]
        )
    return markdown(["", "kills", "trials or runs asked for", "finished", "lost", "counted twice"], lines)


def plain(name: str, columns: dict[str, str], keep: Callable[[Row], bool] = lambda row: True) -> str:
    """
    :param name: A result file.
    :param columns: Its columns that are shown, by their headers.
    :param keep: Which rows are shown.
    """
    return markdown(list(columns), ([row[which] for which in columns.values()] for row in read(name) if keep(row)))


def online_speed(start: str) -> str:
    """Environment steps per second of the groups whose names start so."""
    columns = {"": "group", "loop": "loop", "steps/s": "steps_per_second", "lowest": "lowest", "highest": "highest"}
    return plain("online_speed", columns | {SPEED_UP: "speed_up"}, lambda row: row["group"].startswith(start))


GREEDY = ("greedy, 100 episodes", ("return_mean", 1))
TABLES: dict[str, Callable[[], str]] = {
    "trained_agents": trained_agents,
    "bear_hopper": bear_hopper,
    "bear_pendulum": bear_pendulum,
    "bear_pendulum_variants": bear_pendulum_variants,
    "bear_speed": partial(plain, "bear_speed", {
        "threads": "threads", "loop": "loop", "gradient steps/s": "steps_per_second",
        "x d3rlpy (median of per-turn ratios)": "times_d3rlpy", "x plain": "times_plain", "peak MB": "peak_megabytes",
    }),
    "bigger_than_memory": partial(plain, "bigger_than_memory", {
        "dataset": "source", "GB": "gigabytes", "opened in, s": "seconds_to_open", "resident, GB": "resident_gigabytes",
        "steps/s, as a share of in-memory": "ratio",
    }),
    "fine_tune": fine_tune,
    "kills": kills,
    "load_speed": partial(plain, "load_speed", {
        "file": "file", "MB": "megabytes", "h5py, s": "h5py_seconds", "load_dataset, s": "seconds",
        "load_dataset / h5py (median of per-turn ratios)": "ratio", "floor / h5py": "floor_ratio", "memory / arrays": "memory",
    }),
    "loop_cost": partial(plain, "loop_cost", {
        "": "loop", "microseconds per step": "microseconds", "% of the fastest gradient step": "percent_of_fastest_step",
        "% of the default one": "percent_of_default_step",
    }),
    "reinforce_default": reinforce_default,
    "reinforce_exercises": reinforce_exercises,
    "reinforce_speed": partial(online_speed, "whole episodes"),
    "single_step_literal": partial(single_step, ("CartPole-v1",), [GREEDY[0]], GREEDY[1]),
    "single_step_mountain_car": partial(
        single_step, ("MountainCarContinuous-v0",), ["goals", GREEDY[0]], ("positive_returns", 0), GREEDY[1]
    ),
    "single_step_parts": partial(
        plain, "single_step_a2c_parts", {"part": "part", "of": "within", "microseconds": "microseconds"}
    ),
    "single_step_speed": partial(online_speed, "one-step update"),
    "single_step_stream": partial(single_step, ("Hopper-v5", "HalfCheetah-v5"), []),
    "zoo_entries_reinforce": partial(zoo_entries, "reinforce"),
    "zoo_entries_single_step_a2c": partial(zoo_entries, "single_step_a2c"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a page is not up to date")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
        if new != text and args.check:
            sys.exit(f"{page.name} is not what benchmarks/results says: run python benchmarks/tables.py")
        page.write_text(new)


if __name__ == "__main__":
    main()
