"""
Published scores of BEAR and its baselines on D4RL's locomotion data, from the tables of two public repositories:
``git clone https://github.com/takuseno/d3rlpy-benchmarks`` and ``git clone https://github.com/corl-team/CORL``, then
``python benchmarks/published.py d3rlpy-benchmarks CORL``.

One row per algorithm goes to ``benchmarks/results/published.csv``: means over seeds of the last scores, in percent of D4RL's
expert; for each robot medium-replay, medium and medium-expert.
"""

import argparse
import io
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results" / "published.csv"
ROBOTS, KINDS = ("halfcheetah", "hopper", "walker2d"), ("medium-replay", "medium", "medium-expert")
COLUMNS = [f"{robot}-{kind}" for robot in ROBOTS for kind in KINDS]


def wide(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """:return: A table of one row per algorithm, robot and kind of data, with a column per robot and kind instead."""
    names = table["env"] + "-" + table["dataset"].str.replace("_", "-").str.removesuffix("-v0")
    return table.assign(name=names).pivot(index="algo", columns="name", values=score)


def corl_table(readme: str) -> pd.DataFrame:
    """:return: The "Last Scores" of CORL's README, a row per algorithm."""
    lines = readme.split("#### Last Scores")[1].split("##### ")[1].splitlines()
    lines = [line.strip("|") for line in lines if line.startswith(("| **Task", *(f"|{robot}-" for robot in ROBOTS)))]
    table = pd.read_csv(io.StringIO("\n".join(lines)), sep="|", index_col=0).T
    return table.rename(columns=lambda name: name.removesuffix("-v2")).map(lambda cell: float(cell.split("±")[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("d3rlpy_benchmarks", type=Path, help="a checkout of takuseno/d3rlpy-benchmarks")
    parser.add_argument("corl", type=Path, help="a checkout of corl-team/CORL")
    args = parser.parse_args()
    baselines = wide(pd.read_csv(args.d3rlpy_benchmarks / "baseline_table.csv"), "normalized return")
    d3rlpy = wide(pd.read_csv(args.d3rlpy_benchmarks / "d4rl_table.csv"), "final normalized return")
    corl = corl_table((args.corl / "README.md").read_text())
    sources = {
        "the D4RL authors' code, run by d3rlpy's author (D4RL v0)": baselines.loc[["bear"]].rename({"bear": "BEAR"}),
        "d3rlpy 1 (D4RL v0)": d3rlpy.loc[["BEAR", "BCQ"]],
        "CORL (D4RL v2)": corl.loc[["BC", "TD3+BC", "IQL"]],
    }
    rows = pd.concat({source: table[COLUMNS] for source, table in sources.items()}, names=["source", "algorithm"])
    rows.round(1).to_csv(RESULTS)
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
