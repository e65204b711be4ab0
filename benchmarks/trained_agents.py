"""
Train an agent for each entry of ``hyperparams/`` that takes minutes, into ``rl-trained-agents/``, where ``enjoy`` looks.

    python benchmarks/trained_agents.py [--algos bear reinforce single_step_a2c]

Agents that are there already are not trained again. What the zoo leaves besides the model and its settings (logs,
evaluations) is not kept. The mean returns of 100 greedy episodes or more go to ``benchmarks/results/trained_agents.csv``.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "rl-trained-agents"
RESULTS = Path(__file__).parent / "results" / "trained_agents.csv"
FIELDS = ["algo", "env", "mean_return", "std", "episodes", "kilobytes"]
EPISODES = 100
AGENTS = {
    "bear": ["Pendulum-v1"],
    "reinforce": ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "LunarLander-v3", "Pendulum-v1"],
    "single_step_a2c": ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "LunarLander-v3"],
}
# Longest episode, to let `enjoy` play enough steps for all of them.
STEPS = {"CartPole-v1": 500, "Acrobot-v1": 500, "MountainCarContinuous-v0": 999, "LunarLander-v3": 1000, "Pendulum-v1": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", choices=AGENTS, default=list(AGENTS))
    args = parser.parse_args()
    for algo in args.algos:
        for env in AGENTS[algo]:
            run = FOLDER / algo / f"{env}_1"
            if not run.exists():
                train(algo, env, run)
                note(algo, env, run)
            forget_paths(run)


def zoo(*arguments: str) -> str:
    print("$ sb3-pg-extras", *arguments, flush=True)
    command = [sys.executable, "-m", "sb3_pg_extras.zoo", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    return subprocess.run(command, check=True, cwd=ROOT, env=environment, text=True, capture_output=True).stdout


def train(algo: str, env: str, run: Path) -> None:
    # Beside the folder first: an agent that is there is one that was trained to the end.
    beside = FOLDER.with_name(f".{algo}-{env}")
    shutil.rmtree(beside, ignore_errors=True)
    zoo("train", "--algo", algo, "--env", env, "-f", str(beside), "--seed", "0", "--num-threads", "1", "--eval-freq", "-1")
    trained = beside / algo / f"{env}_1"
    for path in trained.iterdir():
        if path.name not in (f"{env}.zip", env):
            path.unlink()
    run.parent.mkdir(parents=True, exist_ok=True)
    trained.rename(run)
    shutil.rmtree(beside)


def forget_paths(run: Path) -> None:
    """The zoo writes down the command and its arguments, with the folders of the machine."""
    for path in run.rglob("*"):
        if path.suffix in (".yml", ".txt"):
            text = path.read_text()
            path.write_text(text.replace(sys.executable, "python").replace(f"{ROOT.resolve()}{os.sep}", ""))


def note(algo: str, env: str, run: Path) -> None:
    """What ``enjoy`` says of it."""
    said = zoo(
        "enjoy", "--algo", algo, "--env", env, "-f", str(FOLDER), "--no-render", "--seed", "1000", "--deterministic",
        "-n", str(STEPS[env] * EPISODES), "--num-threads", "1",
    )  # fmt: skip
    found = re.search(r"(\d+) Episodes\s+Mean reward: (-?[\d.]+) \+/- ([\d.]+)", said)
    assert found is not None, said
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    # What an agent that is not there any more had come to is in zoo_entries.csv, if it was measured.
    rows = [row for row in rows if (row["algo"], row["env"]) != (algo, env)]
    rows.append(dict(zip(FIELDS, [algo, env, found[2], found[3], found[1], f"{size / 1e3:.0f}"], strict=True)))
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
