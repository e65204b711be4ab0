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
    rows = sorted((r for r in read("bear_pendulum") if r["variant"].startswith("zoo entry")), key=lambda r: r["seed"])
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


TABLES: dict[str, Callable[[], str]] = {
    "bear_pendulum": bear_pendulum,
    "bear_pendulum_variants": bear_pendulum_variants,
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
