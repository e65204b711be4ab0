"""
Put the tables of benchmark results into README and docs: ``python benchmarks/report.py`` (``--check`` only compares).

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; nothing in it is written by hand.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> list[dict[str, str]]:
    """The rows of one result file."""
    with open(RESULTS / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]) + "\n"


def bear_pendulum() -> str:
    """The zoo's Pendulum-v1 entry, seed by seed, between what the data holds and the agent that made it."""
    rows = sorted((r for r in read("bear_pendulum") if r["variant"] == "zoo entry (unbiased, 0.1)"), key=lambda r: r["seed"])
    data, sac = float(rows[0]["dataset_mean"]), float(rows[0]["sac_mean"])
    lines = [
        [
            f"seed {r['seed']}", f"{data:.0f}", f"{float(r['cloning_mean']):.0f} ({float(r['cloning_sampled_mean']):.0f})",
            f"**{float(r['bear_mean']):.0f}**", f"{(data + sac) / 2:.0f}", f"{sac:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    header = ["", "the data", "behaviour cloning, greedy (sampled)", "BEAR", "halfway", "SAC that made the data"]
    return markdown(header, lines)


def bear_pendulum_variants() -> str:
    """Mean over seeds for each variant of the constraint."""
    rows = read("bear_pendulum")
    lines = []
    for variant in dict.fromkeys(r["variant"] for r in sorted(rows, key=lambda r: r["variant"])):
        own = sorted((r for r in rows if r["variant"] == variant), key=lambda r: r["seed"])
        returns = [float(r["bear_mean"]) for r in own]
        alphas = ", ".join(f"{float(r['final_alpha']):.0f}" for r in own)
        lines.append([variant, f"{np.mean(returns):.0f}", ", ".join(f"{x:.0f}" for x in returns), alphas])
    return markdown(["variant", "mean return", "seed by seed", "alpha at the end"], lines)


def bear_hopper() -> str:
    """Seed by seed on the Hopper-v5 medium-replay dataset, full and faster."""
    rows = read("bear_hopper")
    lines = []
    for variant in dict.fromkeys(r["variant"] for r in rows):
        own = sorted((r for r in rows if r["variant"] == variant), key=lambda r: r["seed"])
        returns = [float(r["bear_mean"]) for r in own]
        seeds = ", ".join(f"{x:.0f}" for x in returns)
        cloning = ", ".join(f"{float(r['cloning_mean']):.0f}" for r in own)
        lines.append([variant, f"{np.mean(returns):.0f}", seeds, "; ".join(r["checkpoints"] for r in own), cloning])
    return markdown(["", "mean", "seed by seed", "last five checkpoints", "cloning from the same VAE"], lines)


def fine_tune() -> str:
    """Mean return over seeds along the online steps."""
    rows = read("fine_tune")
    shown = ["0", "500", "1000", "2000", "4000", "8000"]
    lines = []
    for which in dict.fromkeys(r["which"] for r in rows):
        own = [r for r in rows if r["which"] == which]
        means = [np.mean([float(r["return"]) for r in own if r["steps"] == steps]) for steps in shown]
        worst = min(float(r["return"]) for r in own if int(r["steps"]) >= 4_000)
        lines.append([which, str(len({r["seed"] for r in own})), *(f"{mean:.0f}" for mean in means), f"{worst:.0f}"])
    return markdown(["", "seeds", *(f"step {steps}" for steps in shown), "worst evaluation from step 4000 on"], lines)


def by_seed(rows: list[dict[str, str]], column: str) -> list[str]:
    """Mean and each seed's value of one column."""
    values = [float(r[column]) for r in sorted(rows, key=lambda r: int(r["seed"]))]
    return [f"**{np.mean(values):.1f}**", *(f"{value:.1f}" for value in values)]


def reinforce_default() -> str:
    """CartPole-v1 out of the box."""
    rows = [r for r in read("reinforce") if r["experiment"] == "default"]
    seeds = [f"seed {r['seed']}" for r in sorted(rows, key=lambda r: int(r["seed"]))]
    return markdown(["mean", *seeds], [by_seed(rows, "greedy_return")])


def reinforce_exercises() -> str:
    """The two exercises, ours and the scripts'."""
    rows = [r for r in read("reinforce") if r["experiment"] != "default"]
    lines = []
    for experiment in sorted({r["experiment"] for r in rows}):
        own = [r for r in rows if r["experiment"] == experiment]
        greedy = ", ".join(by_seed(own, "greedy_return")[1:])
        lines.append([experiment, *by_seed(own, "train_return"), greedy])
    header = ["exercise", "mean", *(f"seed {seed}" for seed in range(5)), "greedy, 100 episodes"]
    return markdown(header, lines)


def online_speed(groups: str) -> str:
    """Environment steps per second of the groups whose names start so."""
    columns = ["group", "loop", "steps_per_second", "lowest", "highest", "ours_is_faster_by"]
    lines = [[r[column] for column in columns] for r in read("online_speed") if r["group"].startswith(groups)]
    return markdown(["", "loop", "steps/s", "lowest", "highest", "the first is faster by"], lines)


def loop_cost() -> str:
    """What callbacks and the progress bar cost."""
    columns = ["loop", "microseconds", "percent_of_fastest_step", "percent_of_default_step"]
    lines = [[r[column] for column in columns] for r in read("loop_cost")]
    header = ["", "microseconds per step", "% of the fastest gradient step", "% of the default one"]
    return markdown(header, lines)


def zoo_entries(algo: str) -> str:
    """Entries of the hyper-parameter file as they stand, and earlier versions of them that were run."""
    lines = [
        [r["env"], r["seed"], r["steps"], f"{r['mean_return']} +/- {r['std_return']}", f"`{r['entry']}`"]
        for r in sorted(read("zoo_entries"), key=lambda r: (r["env"], r["seed"]))
        if r["algo"] == algo
    ]
    return markdown(["environment", "seed", "steps", "return", "entry"], lines)


def single_step_rows(experiments: Callable[[str], bool], *more: str) -> list[list[str]]:
    """Mean over seeds and each seed's return of the last 100 episodes, and further columns seed by seed."""
    rows = [r for r in read("single_step_a2c") if experiments(r["experiment"])]
    lines = []
    for experiment in dict.fromkeys(r["experiment"] for r in rows):
        own = sorted((r for r in rows if r["experiment"] == experiment), key=lambda r: int(r["seed"]))
        mean, *seeds = by_seed(own, "last_100_return")
        lines.append([experiment, mean, ", ".join(seeds), *(", ".join(r[column] for r in own) for column in more)])
    return lines


def single_step_mountain_car() -> str:
    """The exercise, by script and by ours with the same settings."""
    lines = single_step_rows(lambda name: name.startswith("MountainCar"), "goals", "greedy_return")
    return markdown(["", "last 100 episodes", "seed by seed", "goals", "greedy, 100 episodes"], lines)


def single_step_literal() -> str:
    """CartPole-v1 with the defaults."""
    lines = single_step_rows(lambda name: name.startswith("CartPole"), "greedy_return")
    return markdown(["", "last 100 episodes", "seed by seed", "greedy, 100 episodes"], lines)


def single_step_stream() -> str:
    """The stream preset and the authors' script."""
    lines = single_step_rows(lambda name: name.startswith(("Hopper", "HalfCheetah")))
    return markdown(["", "last 100 episodes", "seed by seed"], sorted(lines))


def single_step_parts() -> str:
    """Where the time of one step on Hopper-v5 goes."""
    rows = read("single_step_a2c_parts")
    lines = [[r["part"], r["within"], r["microseconds"]] for r in rows]
    return markdown(["part", "of", "microseconds"], lines)


def load_speed() -> str:
    """Loading one million transitions from HDF5."""
    columns = ["file", "megabytes", "h5py_seconds", "seconds", "ratio", "floor_ratio", "memory"]
    lines = [[r[column] for column in columns] for r in read("load_speed")]
    return markdown(["file", "MB", "h5py, s", "load_dataset, s", "ratio", "floor of the ratio", "memory / arrays"], lines)


def trained_agents() -> str:
    """The agents in ``rl-trained-agents/``."""
    columns = ["algo", "env", "mean_return", "std", "episodes", "kilobytes"]
    rows = sorted(read("trained_agents"), key=lambda r: (r["algo"], r["env"]))
    lines = [[r[column] for column in columns] for r in rows]
    return markdown(["algorithm", "environment", "mean return", "std", "episodes", "kB"], lines)


def bear_speed() -> str:
    """Gradient steps per second of BEAR, d3rlpy's BEAR, and the matrix products alone."""
    lines = []
    for row in read("bear_speed"):
        where = row["device"] if row["device"] != "cpu" else row["threads"]
        figures = [row[name] for name in ("steps_per_second", "times_d3rlpy", "times_plain", "peak_megabytes")]
        lines.append([where, row["loop"], *figures])
    return markdown(["threads", "loop", "gradient steps/s", "x d3rlpy", "x plain", "peak MB"], lines)


def bigger_than_memory() -> str:
    """Training on a dataset that stays on disk."""
    columns = ["source", "gigabytes", "seconds_to_open", "resident_gigabytes", "ratio"]
    lines = [[r[column] for column in columns] for r in read("bigger_than_memory")]
    return markdown(["dataset", "GB", "opened in, s", "resident, GB", "steps/s, as a share of in-memory"], lines)


def kills() -> str:
    """Workers killed with SIGKILL."""
    rows = read("kills")
    lines = []
    for what in dict.fromkeys(r["what"] for r in rows):
        own = [r for r in rows if r["what"] == what]
        sums = [str(sum(int(r[column]) for r in own)) for column in ("asked", "finished", "lost", "twice")]
        lines.append([what, str(len(own)), *sums])
    return markdown(["", "kills", "trials or runs asked for", "finished", "lost", "counted twice"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "trained_agents": trained_agents,
    "bear_hopper": bear_hopper,
    "bear_pendulum": bear_pendulum,
    "bear_pendulum_variants": bear_pendulum_variants,
    "bear_speed": bear_speed,
    "bigger_than_memory": bigger_than_memory,
    "fine_tune": fine_tune,
    "kills": kills,
    "load_speed": load_speed,
    "loop_cost": loop_cost,
    "reinforce_default": reinforce_default,
    "reinforce_exercises": reinforce_exercises,
    "reinforce_speed": lambda: online_speed("whole episodes"),
    "single_step_literal": single_step_literal,
    "single_step_mountain_car": single_step_mountain_car,
    "single_step_parts": single_step_parts,
    "single_step_speed": lambda: online_speed("one-step update"),
    "single_step_stream": single_step_stream,
    "zoo_entries_reinforce": lambda: zoo_entries("reinforce"),
    "zoo_entries_single_step_a2c": lambda: zoo_entries("single_step_a2c"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a page is not up to date")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
        if new != text and args.check:
            sys.exit(f"{page.name} is not what benchmarks/results says: run python benchmarks/report.py")
        page.write_text(new)


if __name__ == "__main__":
    main()
