"""
``sb3-pg-extras grid``: algorithms x datasets x seeds, on Ray.

Ray is started on this machine, with as many workers as it has cores; ``--address`` names a running cluster instead
(``auto`` or ``host:port``), whose machines share the file system of ``--folder`` and have the package installed. Each run
trains the zoo's entry for the dataset's environment, on one core, and saves a checkpoint every ``--checkpoint-freq``
timesteps. When a worker is killed, Ray runs it again from its last checkpoint. A grid that was stopped resumes when the same
command is run again. REINFORCE and SingleStepA2C learn online, in the environment that a dataset names.
"""

import argparse
import contextlib
import csv
import functools
import io
import itertools
import os
import re
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import ConvertCallback, EveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import sync_envs_normalization
from torch import set_num_threads

from sb3_pg_extras import load_dataset
from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets import DatasetError
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.zoo import ALGORITHMS, hyperparams_file, register
from sb3_pg_extras.zoo.jobs import run_missing
from sb3_pg_extras.zoo.manager import Manager
from sb3_pg_extras.zoo.offline import fingerprint

RESULTS = ["return_mean", "return_std", "starts", "seconds"]
FIELDS = ["algo", "dataset", "seed", "n_timesteps", "settings", "eval_episodes", *RESULTS]


class Start(NamedTuple):
    """A worker that has worked on a run, and the timestep it started from."""

    host: str
    pid: int
    step: int


def read_starts(run: Path) -> list[Start]:
    """:return: The workers of a run, in order."""
    with open(run / "starts.csv") as file:
        return [Start(host, int(pid), int(step)) for host, pid, step in csv.reader(file)]


def checkpoints(run: Path) -> dict[int, Path]:
    """:return: The checkpoints of a run by their timesteps, in order."""
    return dict(sorted((int(path.name.removeprefix("step_")), path) for path in run.glob("step_*")))


def save_checkpoint(model: BaseAlgorithm, run: Path, env_id: str) -> None:
    """Write a folder with the model and, where the zoo looks for it, its VecNormalize; remove earlier folders."""
    old = list(checkpoints(run).values())
    unfinished = run / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / env_id).mkdir(parents=True)
    with atomic_write(unfinished / "model.zip") as file:
        model.save(file)  # type: ignore[arg-type]
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        statistics.save(str(unfinished / env_id / "vecnormalize.pkl"))
    unfinished.rename(run / f"step_{model.num_timesteps}")
    for path in old:
        shutil.rmtree(path)


class Data(NamedTuple):
    """A dataset: where it is, the id of its environment, and figures that identify its content."""

    source: str
    env_id: str
    fingerprint: dict[str, Any]


class Plan(NamedTuple):
    """What the runs of a grid share."""

    folder: Path
    checkpoint_freq: int
    eval_episodes: int
    # The hyper-parameters; None for ours.
    conf_file: Path | None
    datasets: dict[str, Data]


def hyperparams(plan: Plan, algo: str, env_id: str) -> dict[str, Any]:
    """:return: The entry for an environment, or the algorithm's default one."""
    file = plan.conf_file or hyperparams_file(algo)
    entries = yaml.safe_load(file.read_text())
    if not {env_id, "default"} & set(entries):
        raise ValueError(f"{file} has neither an entry {env_id} nor one that is called default")
    return entries[env_id if env_id in entries else "default"]


def settings(plan: Plan, algo: str, dataset: str, n_timesteps: int) -> str:
    """:return: What differs where the data or the hyper-parameters of two runs do."""
    data = plan.datasets[dataset]
    what = [data, n_timesteps, sorted(hyperparams(plan, algo, data.env_id).items())]
    return f"{zlib.crc32(repr(what).encode()):08x}"


def run_folder(plan: Plan, algo: str, dataset: str, seed: int, n_timesteps: int) -> Path:
    """:return: The folder of a run's checkpoints, a different one for different settings."""
    name = re.sub(r"[^a-zA-Z0-9.-]+", "-", Path(dataset).name)
    return plan.folder / f"{algo}-{name}-{seed}-{settings(plan, algo, dataset, n_timesteps)}"


def run(plan: Plan, algo: str, dataset: str, seed: int, n_timesteps: int) -> dict[str, Any]:
    """
    Train and evaluate, from the last checkpoint if there is one.

    :param plan: What all runs share.
    :param algo: Id of the algorithm.
    :param dataset: A key of ``plan.datasets``.
    :param seed: Seed.
    :param n_timesteps: Gradient steps (BEAR) or environment steps.
    :return: The row of the run.
    """
    # One core each: results do not depend on the machine's cores.
    set_num_threads(1)
    register()
    start = time.perf_counter()
    folder = run_folder(plan, algo, dataset, seed, n_timesteps)
    folder.mkdir(parents=True, exist_ok=True)
    step, checkpoint = list(checkpoints(folder).items())[-1] if checkpoints(folder) else (0, None)
    with open(folder / "starts.csv", "a", newline="") as file:
        csv.writer(file).writerow(Start(socket.gethostname(), os.getpid(), step))
    source, env_id, _ = plan.datasets[dataset]
    manager = Manager(
        argparse.Namespace(), algo, env_id, str(folder / "zoo"), n_timesteps=n_timesteps, eval_freq=-1, seed=seed, verbose=0,
        config=None if plan.conf_file is None else str(plan.conf_file), device="cpu",
        hyperparams={"dataset": source} if issubclass(ALGORITHMS[algo], OfflineAlgorithm) else None,
        trained_agent="" if checkpoint is None else str(checkpoint / "model.zip"),
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # each run would print its entry
        model, _ = manager.setup_experiment()  # type: ignore[misc]
    if step < n_timesteps:

        def save(*_: Any) -> bool:
            save_checkpoint(model, folder, manager.env_name)
            return True

        callback = EveryNTimesteps(plan.checkpoint_freq, ConvertCallback(save))
        callback.last_time_trigger = step
        model.learn(n_timesteps - step, callback, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        if model.num_timesteps not in checkpoints(folder):
            save_checkpoint(model, folder, manager.env_name)
    # Greedy episodes, always with the same seeds.
    manager.seed = 1_000
    env = manager.create_envs(min(plan.eval_episodes, 20), eval_env=True)
    sync_envs_normalization(model.env, env)  # type: ignore[arg-type]
    returns, _ = evaluate_policy(model, env, plan.eval_episodes, return_episode_rewards=True)
    row = [algo, dataset, seed, n_timesteps, settings(plan, algo, dataset, n_timesteps), plan.eval_episodes]
    seconds = time.perf_counter() - start
    row += [f"{np.mean(returns):.1f}", f"{np.std(returns):.1f}", len(read_starts(folder)), f"{seconds:.1f}"]
    return dict(zip(FIELDS, row, strict=True))


class RayPool(Executor):
    """
    Ray as a Python ``Executor``.

    :param ray: The module, after ``ray.init``.
    :param max_retries: How often a job is run again when its worker died.
    """

    def __init__(self, ray: Any, max_retries: int) -> None:
        self._job = ray.remote(num_cpus=1, max_retries=max_retries)(lambda fn, *args: fn(*args))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> "Future[Any]":
        """The arguments also name the job on Ray's dashboard."""
        return self._job.options(name=" ".join(map(str, args))).remote(fn, *args).future()


def start_ray(address: str, workers: int | None) -> Any:
    """:return: The module, with Ray started on this machine or connected to a cluster."""
    # Otherwise Ray sends usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "ray")
    host, _, port = address.rpartition(":")
    here = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        if port.isdigit():
            # Ray itself gives up after more than a minute.
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, logging_level="warning", **here)
    except OSError as error:
        raise ConnectionError(f"--address {address}: no Ray cluster answers ({error})") from error
    return ray


def main() -> None:
    """Run ``sb3-pg-extras grid`` with the arguments of the process."""
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algos", nargs="+", default=["bear"], choices=list(ALGORITHMS))
    parser.add_argument("--datasets", nargs="+", default=["bundled:pendulum-mixed-v0"], help="what load_dataset takes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("-n", "--n-timesteps", type=int, help="timesteps of each run; the zoo entry's by default")
    parser.add_argument("-conf", "--conf-file", type=Path, help="hyper-parameter file, in the zoo's format")
    parser.add_argument("--checkpoint-freq", type=int, default=1_000, help="timesteps between two checkpoints")
    parser.add_argument("--eval-episodes", type=int, default=100)
    parser.add_argument("--address", default="local", help="a Ray cluster: auto or host:port")
    parser.add_argument("--workers", type=int, help="number of workers on this machine; its number of cores by default")
    parser.add_argument("--max-retries", type=int, default=3, help="how often a run is resumed when its worker died")
    parser.add_argument("--folder", type=Path, default=Path("logs/grid"), help="folder of the checkpoints")
    parser.add_argument("--output", type=Path, default=Path("grid.csv"), help="CSV file with a row per run")
    args = parser.parse_args()
    for name in ("checkpoint_freq", "eval_episodes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1")
    if args.conf_file is not None:
        if len(args.algos) > 1 or not args.conf_file.is_file():
            parser.error(f"--conf-file {args.conf_file}: a file of one algorithm, for --algos with one name")
        args.conf_file = args.conf_file.resolve()
    try:
        ray = start_ray(args.address, args.workers)
        datasets = {}
        for name in args.datasets:
            data = load_dataset(name)
            env_id = data.env_id
            if env_id is None:
                raise DatasetError(
                    f"{name}: env_id is not set, so there is no environment to evaluate in: save it with env_id="
                )
            gym.spec(env_id)
            datasets[name] = Data(os.path.abspath(name) if os.path.exists(name) else name, env_id, fingerprint(data))
        plan = Plan(args.folder.resolve(), args.checkpoint_freq, args.eval_episodes, args.conf_file, datasets)
        jobs = []
        for algo, name in itertools.product(args.algos, datasets):
            n_timesteps = args.n_timesteps or hyperparams(plan, algo, datasets[name].env_id).get("n_timesteps")
            if n_timesteps is None:
                raise ValueError(f"no n_timesteps for {algo} on {name}: give -n")
            jobs += [(algo, name, seed, int(n_timesteps)) for seed in dict.fromkeys(args.seeds)]

        def job_of(row: dict[str, str]) -> tuple[Any, ...]:
            # Rows of other settings stay in the file, and their jobs are run.
            job = (row["algo"], row["dataset"], int(row["seed"]), int(row["n_timesteps"]))
            same = job in jobs and row.get("settings") == settings(plan, job[0], job[1], job[3])
            return job if same and row["eval_episodes"] == str(args.eval_episodes) else ()

        pool = RayPool(ray, args.max_retries)
        run_missing(args.output, FIELDS, jobs, job_of, functools.partial(run, plan), pool)
    except (ConnectionError, ValueError) as error:
        sys.exit(f"sb3-pg-extras grid: error: {error}")
