"""
What the loop around BEAR's gradient step costs: ``python benchmarks/loop_cost.py``.

``learn`` runs with gradient steps that only sleep, for as long as the fastest one takes (``bear_speed.csv``), in a terminal
(a pseudo-terminal: a progress bar draws nothing elsewhere). The processor time that is left is the loop's. It goes to
``benchmarks/results/loop_cost.csv``, per step, for the bare loop and with callbacks and progress bar on top, in turns.
"""

import argparse
import csv
import io
import json
import pty
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from sb3_pg_extras.common.files import atomic_write

RESULTS = Path(__file__).parent / "results"
STEPS, TURNS = 250, 5


def child(seconds: float, output: Path) -> None:
    """In the terminal."""
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pg_extras import BEAR

    class SleepingBEAR(BEAR):
        def train(self, gradient_steps: int, batch_size: int = 256) -> None:
            time.sleep(seconds)
            self._n_updates += gradient_steps

    warnings.simplefilter("ignore")
    model = SleepingBEAR("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", warmup_steps=0)
    # Never due: what they do when they are is not the loop's.
    callbacks = [EvalCallback(make_vec_env("Pendulum-v1"), eval_freq=10**9), CheckpointCallback(10**9, str(output.parent))]
    loops: dict[str, dict[str, Any]] = {
        "the bare loop": {},
        "with EvalCallback and CheckpointCallback": {"callback": callbacks},
        "with these and the progress bar": {"callback": callbacks, "progress_bar": True},
    }
    figures: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(TURNS):
        for name, kwargs in loops.items():
            start = time.process_time()
            model.learn(STEPS, log_interval=None, **kwargs)
            figures[name].append((time.process_time() - start) / STEPS)
    output.write_text(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(float(args.child[0]), Path(args.child[1]))
        return
    with open(RESULTS / "bear_speed.csv") as file:
        seconds = {row["loop"]: 1 / float(row["steps_per_second"]) for row in csv.DictReader(file) if row["threads"] == "1"}
    fastest = min(value for name, value in seconds.items() if name.startswith("BEAR"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        pty.spawn([sys.executable, __file__, "--child", str(fastest), str(output)])
        figures = json.loads(output.read_text())
    bare = statistics.median(figures["the bare loop"])
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["loop", "microseconds", "beyond_bare", "percent_of_fastest_step", "percent_of_default_step"])
    for name, values in figures.items():
        median = statistics.median(values)
        # The bar is redrawn so many times a second, however many steps there are: its share is the same for any step.
        share = 100 * (median - bare) / fastest
        of_default = share if "progress bar" in name else share * fastest / seconds["BEAR"]
        writer.writerow([name, *(f"{1e6 * x:.0f}" for x in (median, median - bare)), f"{share:.2f}", f"{of_default:.2f}"])
    with atomic_write(RESULTS / "loop_cost.csv") as target:
        target.write(text.getvalue().encode())
    print(text.getvalue())


if __name__ == "__main__":
    main()
