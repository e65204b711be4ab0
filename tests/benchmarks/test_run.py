"""The runner of suites: what it trains, and that it takes up where it was killed."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.run import expand, greedy_returns, measured, train_script
from benchmarks.tables import gain, is_met, is_stable, mean_and_iqm, minutes_to, probability_of_improvement, trust

ROOT = Path(__file__).parent.parent.parent
SUITE = """
algorithm: reinforce
env: CartPole-v1
entry: null
seeds: [3]
evaluate: {episodes: 10, every: 200}
runs:
  - variant: short
    settings: {policy: MlpPolicy, n_timesteps: 400, n_episodes: 2}
  - variant: longer
    settings: {policy: MlpPolicy, n_timesteps: 4000, n_episodes: 2}
    stop: {n_updates: 20}
"""


def start(suite: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), str(suite), "--results", str(folder), "--workers", "1"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open())) if path.exists() else []


def test_a_suite_that_is_killed_in_the_middle_goes_on_with_what_is_missing(tmp_path):
    suite, output = tmp_path / "tiny.yml", tmp_path / "results" / "tiny.csv"
    suite.write_text(SUITE)
    runner = start(suite, output.parent)
    try:
        deadline = time.monotonic() + 60
        while not rows(output) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
    before = rows(output)
    assert [row["variant"] for row in before] == ["short"]

    assert start(suite, output.parent).wait(120) == 0
    after = rows(output)
    assert after[0] == before[0]
    assert [row["variant"] for row in after] == ["short", "longer"]
    assert {(row["suite"], row["algorithm"], row["env"], row["seed"]) for row in after} == {
        ("tiny", "reinforce", "CartPole-v1", "3")
    }
    logged = [json.loads(row["logged"]) for row in after]
    assert logged[0]["evaluations"].keys() == {"0", "200", "400"}
    means = [float(mean) for mean in after[0]["last_evaluations"].split()]
    assert means == list(logged[0]["evaluations"].values())
    assert float(after[0]["return_mean"]) == pytest.approx(np.mean(means), abs=0.11)
    assert logged[1]["n_updates"] == 20 and int(after[1]["n_timesteps"]) < 4_000  # it was stopped


def test_lists_multiply_and_entries_are_the_zoo_s(tmp_path):
    suite = tmp_path / "names.yml"
    suite.write_text("""
seeds: [0, 1]
settings: {n_timesteps: 5}
runs:
  - {algorithm: [reinforce, single_step_a2c], env: [CartPole-v1, Acrobot-v1], settings: {gamma: 0.5}}
  - {algorithm: bear, env: Pendulum-v1, variant: named, seeds: [7]}
""")
    specs, jobs = expand(suite)
    assert len(specs) == 5 and len(jobs) == 9
    assert jobs[-1] == ("bear", "named", "Pendulum-v1", "bundled:pendulum-mixed-v0", 7)
    settings = next(
        spec["settings"] for key, spec in specs.items() if key[0] == "single_step_a2c" and key[2] == "Acrobot-v1"
    )
    assert settings["normalize"] is True and settings["n_timesteps"] == 5 and settings["gamma"] == 0.5


def test_every_suite_of_the_repository_can_be_read_and_its_results_are_known():
    for suite in sorted((ROOT / "benchmarks" / "suites").glob("*.yml")):
        specs, jobs = expand(suite)
        assert len(jobs) == len(set(jobs)) >= len(specs)
        results = {row["variant"] for row in rows(ROOT / "benchmarks" / "results" / f"{suite.stem}.csv")}
        named = {key[1] for key, spec in specs.items() if "variant" in spec}
        assert named & results or not named, f"{suite.name}: no variant has a row, was one renamed?"


class Left:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.zeros(len(observation), dtype=int), state


def test_the_evaluator_plays_the_same_starts_each_time():
    env = make_vec_env("CartPole-v1", 4)
    first = greedy_returns(Left(), env, 8)
    assert len(first) == 8 and len(set(first)) > 1
    assert np.array_equal(greedy_returns(Left(), env, 8), first)


def test_the_last_five_evaluations_count_not_the_best():
    evaluations = {step: np.array([float(step), step + 2.0]) for step in (100, 1, 2, 3, 4, 5)}
    assert measured(evaluations) == {
        "return_mean": 4.0, "return_std": pytest.approx(np.sqrt(3)), "last_evaluations": "2.0 3.0 4.0 5.0 6.0"
    }  # fmt: skip


def test_the_interquartile_mean_leaves_out_the_outlier():
    mean, iqm = mean_and_iqm([{"x": value} for value in ("1", "2", "3", "94")], "x", 1)
    assert mean == "**25.0**" and iqm.startswith("2.5 (")
    low, high = (float(word) for word in iqm.removeprefix("2.5 (").removesuffix(")").split(" to "))
    assert 1 <= low < 2.5 < high <= 94
    assert mean_and_iqm([{"x": "5"}], "x", 1) == ["**5.0**", ""]


def test_the_probability_of_improvement_counts_pairs_of_the_same_dataset():
    ours, theirs = {"a": [3.0, 1.0], "b": [5.0], "only ours": [0.0]}, {"a": [2.0, 0.0], "b": [6.0]}
    # 3 of 4 pairs on a, none on b.
    assert probability_of_improvement(ours, theirs) == pytest.approx(0.375)


def test_the_gain_is_the_mean_over_datasets_and_its_interval():
    ours, theirs = {"a": [4.0, 6.0], "b": [2.0], "c": [9.0]}, {"a": [3.0], "b": [1.0, 3.0], "d": [0.0]}
    # 5 - 3 and 2 - 2; resampling two datasets gives 0, 1 or 2.
    assert gain(ours, theirs) == (1.0, 0.0, 2.0)


@pytest.mark.parametrize(("alpha", "mmd", "met"), [(500.0, 0.108, True), (500.0, 0.112, False), (math.exp(10), 0.05, False)])
def test_the_constraint_is_met_where_alpha_is_below_its_clamp(alpha, mmd, met):
    early = [math.exp(10)] * 4
    row = {"train/alpha": [*early, alpha], "train/mmd": [*early, mmd], "train/mmd_threshold": [0.1] * 5}
    assert is_met(row) == met


@pytest.mark.parametrize(
    ("last", "stable"), [("80.0 100.0 100.0 110.0 110.0", True), ("79.0 100.0 100.0 110.0 111.0", False)]
)
def test_stable_means_at_least_four_fifths_of_the_mean(last, stable):
    assert is_stable({"last_evaluations": last}) == stable


def test_minutes_to_a_return_are_those_of_the_first_evaluation_that_reaches_it():
    row = {"evaluations": {"0": 1.0, "200": 5.0, "400": 7.0, "600": 6.0}, "n_timesteps": "600", "seconds": "360.0"}
    assert [minutes_to(wanted, row) for wanted in (5.0, 6.0, 8.0)] == ["2.0", "4.0", "never"]


def evaluated_elsewhere(seed: int, env_id: str, n_timesteps: int) -> tuple[None, dict]:
    return None, {"n_timesteps": n_timesteps, "seconds": 1.5, "evaluations": {n: float(n) for n in range(n_timesteps)}}


def test_a_script_may_evaluate_by_itself():
    row = train_script(
        {"script": f"{__name__}.evaluated_elsewhere", "env": "CartPole-v1", "settings": {"n_timesteps": 7}}, 0
    )
    assert (row["n_timesteps"], row["seconds"], row["return_mean"]) == (7, 1.5, 4.0)
    assert row["last_evaluations"] == "2.0 3.0 4.0 5.0 6.0" and len(row["logged"]["evaluations"]) == 7


def test_trust_is_the_rank_correlation_and_what_the_first_choice_loses():
    figures = [{"value": value, "td_error": error} for value, error in ((9.0, 9.0), (1.0, 3.0), (3.0, 2.0), (2.0, 1.0))]
    row = {"evaluations": {"0": 0.0, "1": 10.0, "2": 20.0, "3": 30.0}, "offline": figures}
    # The value puts the second of three first; the TD error, of which less is better, ranks all three.
    assert trust([row])["value"] == pytest.approx((0.5, 50.0))
    assert trust([row])["td_error"] == pytest.approx((1.0, 0.0))
    assert "advantage" not in trust([row])
