"""
What comes on top of learning: ``python benchmarks/speed/overhead.py imports`` and ``... loop``.

``imports``: processor seconds of importing the package, next to Stable-Baselines3, each in a process of its own. ``loop``:
the processor time of BEAR's loop around gradient steps that only sleep, for as long as the fastest one takes
(``bear_speed.csv``): bare, with callbacks, and with a progress bar too.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
import warnings
from functools import partial
from typing import Any

from turns import RESULTS, summary, take_turns, write

CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
STEPS = 250


def imports(turns: int) -> None:
    def seconds(module: str) -> float:
        return float(subprocess.check_output([sys.executable, "-c", CODE.format(module)], text=True))

    modules = ("stable_baselines3", "sb3_pg_extras", "sb3_pg_extras.bear", "sb3_pg_extras.reinforce")
    figures = take_turns({module: partial(seconds, module) for module in modules}, turns)
    rows = []
    for module, values in figures.items():
        beyond = statistics.median(own - sb3 for own, sb3 in zip(values, figures["stable_baselines3"], strict=True))
        rows.append({"module": module, **summary("seconds", values, 3), "beyond_sb3": f"{beyond:.3f}"})
    write("import_time", rows)


def loop(turns: int) -> None:
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pg_extras import BEAR

    with open(RESULTS / "bear_speed.csv") as file:
        seconds = {row["loop"]: 1 / float(row["steps_per_second"]) for row in csv.DictReader(file) if row["threads"] == "1"}
    fastest = min(value for name, value in seconds.items() if name.startswith("BEAR"))

    class SleepingBEAR(BEAR):
        def train(self, gradient_steps: int, batch_size: int = 256) -> None:
            """Take the time of a gradient step, and no processor."""
            time.sleep(fastest)
            self._n_updates += gradient_steps

    warnings.simplefilter("ignore")
    model = SleepingBEAR("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", warmup_steps=0)
    # Never due: what they do when they are is not the loop's.
    callbacks = [EvalCallback(make_vec_env("Pendulum-v1"), eval_freq=10**9), CheckpointCallback(10**9, "unused")]
    loops: dict[str, dict[str, Any]] = {
        "the bare loop": {},
        "with EvalCallback and CheckpointCallback": {"callback": callbacks},
        "with these and the progress bar": {"callback": callbacks, "progress_bar": True},
    }

    def measure(kwargs: dict[str, Any]) -> float:
        start = time.process_time()
        model.learn(STEPS, log_interval=None, **kwargs)
        return (time.process_time() - start) / STEPS

    os.environ["FORCE_COLOR"] = "1"  # the bar is drawn, terminal or not
    figures = take_turns({name: partial(measure, kwargs) for name, kwargs in loops.items()}, turns)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    rows = []
    for name, median in medians.items():
        beyond = median - medians["the bare loop"]
        # The bar is redrawn so many times a second, however many steps there are: its share is the same for any step.
        of_default = beyond / (fastest if "progress bar" in name else seconds["BEAR"])
        row = {"loop": name, "microseconds": f"{1e6 * median:.0f}", "beyond_bare": f"{1e6 * beyond:.0f}"}
        row |= {"percent_of_fastest_step": f"{100 * beyond / fastest:.2f}"}
        rows.append(row | {"percent_of_default_step": f"{100 * of_default:.2f}"})
    write("loop_cost", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("imports", "loop"))
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    (imports if args.what == "imports" else loop)(args.turns)


if __name__ == "__main__":
    main()
