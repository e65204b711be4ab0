"""
How long importing the package takes, next to Stable-Baselines3: ``python benchmarks/import_time.py``.

Each import runs in a process of its own, by turns; writes ``benchmarks/results/import_time.csv``. Processor seconds, which
other work on the machine disturbs least.
"""

import argparse
import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np

from sb3_pg_extras.common.files import atomic_write

OUTPUT = Path(__file__).parent / "results" / "import_time.csv"
MODULES = ["stable_baselines3", "sb3_pg_extras"]
CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(module: str) -> float:
    """:return: Processor seconds of one import in a new process."""
    result = subprocess.run([sys.executable, "-c", CODE.format(module)], text=True, capture_output=True, check=True)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    # The first turn only fills the caches.
    figures = np.array([[seconds(module) for module in MODULES] for _ in range(args.turns + 1)])[1:]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["module", "seconds", "lowest", "highest", "beyond_sb3"])
    for i, module in enumerate(MODULES):
        values = figures[:, i]
        beyond = np.median(values - figures[:, 0])
        writer.writerow([module, *(f"{x:.3f}" for x in (np.median(values), values.min(), values.max(), beyond))])
    with atomic_write(args.output) as file:
        file.write(text.getvalue().encode())
    print(text.getvalue())


if __name__ == "__main__":
    main()
