"""
Train what a suite asks for: ``python benchmarks/run.py suites/reinforce.yml [more suites]``.

A suite lists runs. Settings at its top apply to all of them, and lists multiply:

    algorithm, env    ids of the RL Zoo
    variant           the row's name; by default the settings themselves
    entry             the entry of ``hyperparams/<algorithm>.yml`` to start from: the environment's by default, null for none
    settings          what replaces the entry's, in the format of the zoo's files
    dataset           the kind of data, of which there is a file for each environment: where, see ``--data``
    seeds             one run each
    evaluate          {episodes, every}: greedy episodes at the end, or every so many steps; the last five evaluations count
    stop              {n_episodes, n_updates, window_updates}: end earlier; ``train_return`` is of the last updates' episodes
    initialise        a function to apply to the policy's modules
    trace             logged quantities to keep at each evaluation
    offline           gradient steps of FQE on a fifth of the episodes, which are held out, at each evaluation but the first
    acting            at how many of the last evaluations to compare ways of choosing an action (study.py)
    online            {n_timesteps, ...}: continue with ``to_sac(env, ...)``
    script            a function of seed, env and settings that trains by itself and returns (policy, figures); without a
                      policy, figures may have returns by steps, "evaluations"; env_kwargs are those of the evaluation
    keep              a folder for the agent
    replay_buffer     a file for its replay buffer, as a dataset

``--data`` names the datasets of a suite that asks for ``dataset:``: "own" for those of ``make_locomotion.py``, "minari",
"d4rl", or a pattern with ``{robot}`` and ``{kind}``. ``--device cuda`` trains offline algorithms on a GPU, which many
``--workers`` can share; their rows name it.

Runs that have a row in ``benchmarks/results/<suite>.csv`` are not repeated; a row is written as its run ends. Each run is a
process with one thread.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_class_by_name
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

import sb3_pg_extras
from benchmarks.study import AveragedActor
from sb3_pg_extras.common.returns import discounted_returns
from sb3_pg_extras.offline import evaluation
from sb3_pg_extras.zoo import hyperparams_file, register
from sb3_pg_extras.zoo.jobs import run_missing

HERE = Path(__file__).parent
KEY = ("algorithm", "variant", "env", "dataset", "seed")
DATA = {
    "own": "benchmarks/runs/locomotion/{robot}-{kind}.npz",
    "minari": "minari:mujoco/{robot}/{kind}-v0",
    "d4rl": "benchmarks/runs/d4rl/{robot}_{kind}-v2.hdf5",
}
FIELDS = ["suite", *KEY, "n_timesteps", "return_mean", "return_std", "last_evaluations", "seconds", "logged"]


def greedy_returns(policy: Any, env: VecEnv, n_episodes: int) -> np.ndarray:
    """
    The one evaluator of all suites.

    :param policy: Anything with ``predict``.
    :param env: Environments to play in. They are seeded: every call plays from the same starts.
    :param n_episodes: Episodes to play.
    :return: Undiscounted returns, (n_episodes,).
    """
    env.seed(1_000)
    returns, _ = evaluate_policy(policy, env, n_episodes, return_episode_rewards=True)
    return np.array(returns)


class LastValues(Logger):
    """Keeps the last value of everything that is logged, and writes nothing."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.values: dict[str, Any] = {}

    def dump(self, step: int = 0) -> None:
        """As SB3's."""
        self.values |= {name: value for name, value in self.name_to_value.items() if isinstance(value, float | np.floating)}
        super().dump(step)


class Watch(BaseCallback):
    """Evaluates along the training, notes its episodes, and ends it after a number of episodes or updates."""

    def __init__(
        self,
        evaluate: Callable[..., np.ndarray],
        every: int = 0,
        n_episodes: float = np.inf,
        n_updates: float = np.inf,
        trace: Sequence[str] = (),
        actors: AveragedActor | None = None,
        n_acting: int = 0,
        judge: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.evaluate, self.every, self.n_episodes, self.n_updates = evaluate, every, n_episodes, n_updates
        self.trace: dict[str, list[float]] = {name: [] for name in trace}
        self.actors, self.n_acting, self.judge = actors, n_acting, judge
        self.acting: dict[str, list[float]] = {}
        self.offline: list[dict[str, float]] = []
        self.evaluations: dict[int, np.ndarray] = {}
        self.returns: list[float] = []
        self.episodes_at_updates = [0]
        self.seconds = 0.0

    def _on_training_start(self) -> None:
        if self.every:
            self._evaluate()

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals.get("infos", []) if "episode" in info]
        if self.every and self.num_timesteps % self.every == 0:
            self._evaluate()
        return len(self.returns) < self.n_episodes and self.model._n_updates < self.n_updates

    def _on_rollout_end(self) -> None:
        self.episodes_at_updates.append(len(self.returns))

    def _evaluate(self) -> None:
        start = time.process_time()
        self.evaluations[self.num_timesteps] = self.evaluate()
        for name, values in self.trace.items():
            values.append(float(f"{self.logger.values.get(name, np.nan):.4g}"))  # type: ignore[attr-defined]
        if self.judge and self.num_timesteps:
            self.offline.append(self.judge())
        if self.actors and self.model._total_timesteps - self.num_timesteps < self.n_acting * self.every:
            for name, rule in self.actors.rules().items():
                self.acting.setdefault(name, []).append(round(float(self.evaluate(rule).mean()), 1))
        self.seconds += time.process_time() - start

    def figures(self, window_updates: int | None = None) -> dict[str, Any]:
        """:return: The mean return of the last 100 training episodes, or of those of the last updates."""
        if not self.returns:
            return {}
        last = self.returns[-100 if window_updates is None else self.episodes_at_updates[-1 - window_updates] :]
        positive = sum(r > 0 for r in self.returns)
        return {"train_return": float(np.mean(last)), "episodes": len(self.returns), "positive_returns": positive}


def train(specs: dict[tuple[str, ...], dict[str, Any]], device: str, *key: Any) -> dict[str, Any]:
    """:return: The row of one run."""
    *name, seed = key
    spec = specs[tuple(name)]
    th.set_num_threads(1)
    start = time.perf_counter()
    row = train_script(spec, seed) if "script" in spec else train_model(spec, seed, device)
    values = {"suite": spec["suite"], **dict(zip(KEY, key, strict=True)), "seconds": time.perf_counter() - start} | row
    values["logged"] = json.dumps(
        {name: float(f"{x:.4g}") if isinstance(x, float | np.floating) else x for name, x in values["logged"].items()}
    )
    return {name: f"{x:.1f}" if isinstance(x, float) else x for name, x in values.items()}


def measured(evaluations: dict[int, np.ndarray]) -> dict[str, Any]:
    """:return: Columns of the last five evaluations: their mean, never the best."""
    last = list(evaluations.values())[-5:]
    means = " ".join(f"{returns.mean():.1f}" for returns in last)
    return {"return_mean": float(np.mean(last)), "return_std": float(np.std(last)), "last_evaluations": means}


def train_script(spec: dict[str, Any], seed: int) -> dict[str, Any]:
    policy, figures = get_class_by_name(spec["script"])(seed, spec["env"], **spec["settings"])
    row: dict[str, Any] = {"n_timesteps": figures.pop("n_timesteps")}
    if "seconds" in figures:
        row["seconds"] = figures.pop("seconds")
    evaluations = {n: np.array([mean]) for n, mean in figures.get("evaluations", {}).items()}
    if policy is not None:
        env = make_vec_env(spec["env"], 10, env_kwargs=spec.get("env_kwargs"))
        evaluations[0] = greedy_returns(policy, env, spec["evaluate"]["episodes"])
    return row | (measured(evaluations) if evaluations else {}) | {"logged": figures}


def zoo_experiment(
    algorithm: str, env_id: str, settings: dict[str, Any], seed: int, folder: str, device: str
) -> tuple[Any, Any]:
    """:return: The RL Zoo's manager of an experiment, which makes environments too, and the model that it makes."""
    register()
    settings = dict(settings)
    env_kwargs = settings.pop("env_kwargs", None)
    config = Path(folder) / "settings.yml"
    config.write_text(yaml.safe_dump({env_id: settings}))
    experiment = ExperimentManager(
        argparse.Namespace(algo=algorithm, env=env_id, seed=seed, env_kwargs=env_kwargs), algorithm, env_id, folder,
        eval_freq=-1, env_kwargs=env_kwargs, seed=seed, verbose=0, config=str(config), device=device,
    )  # fmt: skip
    made = experiment.setup_experiment()
    assert made is not None
    return experiment, made[0]


def entry_of(algorithm: str, name: str) -> dict[str, Any]:
    """:return: An entry of our hyper-parameter files."""
    return yaml.safe_load(hyperparams_file(algorithm).read_text())[name]


def train_model(spec: dict[str, Any], seed: int, device: str) -> dict[str, Any]:
    settings = spec["settings"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        experiment, model = zoo_experiment(spec["algorithm"], spec["env"], settings, seed, folder, device)
        if "initialise" in spec:
            model.policy.apply(get_class_by_name(spec["initialise"]))
        env, n_timesteps = experiment.create_envs(10, eval_env=True, no_log=True), experiment.n_timesteps
        if "online" in spec:
            model.learn(n_timesteps)
            arguments = dict(spec["online"])
            n_timesteps = arguments.pop("n_timesteps")
            model = model.to_sac(spec["env"], seed=seed, **arguments)

        def evaluate(policy: Any = None) -> np.ndarray:
            sync_envs_normalization(model.env, env)
            return greedy_returns(policy or model, env, spec["evaluate"]["episodes"])

        logged = LastValues()
        model.set_logger(logged)
        stop = dict(spec.get("stop", {}))
        window = stop.pop("window_updates", None)
        judge = None
        if "offline" in spec:
            learned, held_out = sb3_pg_extras.load_dataset(settings["dataset"]).split(0.8, seed=0)
            model.set_dataset(learned)
            judge = partial(offline_figures, model, held_out, spec["offline"])
        actors = AveragedActor() if spec.get("acting") else None
        watch = Watch(
            evaluate,
            spec["evaluate"].get("every", 0),
            trace=spec.get("trace", ()),
            actors=actors,
            n_acting=spec.get("acting", 0),
            judge=judge,
            **stop,
        )
        start = time.process_time()
        model.learn(n_timesteps, callback=[actors, watch] if actors else watch)
        seconds = time.process_time() - start - watch.seconds
        logged.values |= watch.figures(window) | {"n_updates": model._n_updates}
        if model.device.type == "cuda":
            logged.values["device"] = th.cuda.get_device_name(model.device)
        if watch.every:
            logged.values["evaluations"] = {n: round(float(r.mean()), 1) for n, r in watch.evaluations.items()}
            logged.values |= {
                name: values
                for name, values in (watch.trace | {"acting": watch.acting, "offline": watch.offline}).items()
                if values
            }
        if "dataset" in settings:
            dataset = sb3_pg_extras.load_dataset(settings["dataset"])
            returns = dataset.episode_returns()
            to_go = discounted_returns(dataset.rewards, dataset.episode_ends, getattr(model, "gamma", 0.99))
            logged.values["dataset_value"] = to_go.mean()
            logged.values |= {"dataset_return": returns.mean(), "dataset_best": returns.max()}
            if dataset.reference_scores is not None:
                logged.values["expert_return"] = dataset.reference_scores[1]
        if hasattr(model, "behavior_vae"):
            logged.values["cloning_return"] = float(evaluate(model.behavior_vae).mean())
        if "keep" in spec:
            logged.values["kilobytes"] = keep(experiment, model, HERE.parent / spec["keep"])
        if "replay_buffer" in spec:
            sb3_pg_extras.save_dataset(sb3_pg_extras.load_dataset(model.replay_buffer), spec["replay_buffer"])
        row = {"n_timesteps": model.num_timesteps, "seconds": seconds, "logged": logged.values}
        return row | measured(watch.evaluations or {n_timesteps: evaluate()})


def offline_figures(model: Any, held_out: sb3_pg_extras.OfflineDataset, n_steps: int) -> dict[str, float]:
    """:return: FQE's value of the model on held-out data, and the figures beside it."""
    value, figures = evaluation.evaluate_offline(model, held_out, n_steps, seed=0)
    figures |= {"value": value.mean, "bound": value.bound}
    return {name: float(f"{x:.4g}") for name, x in figures.items()}


def keep(experiment: ExperimentManager, model: Any, target: Path) -> int:
    """
    Save an agent where ``enjoy`` finds it, without the training's logs and the machine's paths.

    :return: Kilobytes.
    """
    experiment.save_trained_model(model)
    run, env_id = Path(experiment.save_path), experiment.env_name
    for path in run.iterdir():
        if path.name not in (env_id, f"{env_id}.zip"):
            path.unlink()
    command = run / env_id / "command.txt"
    command.write_text(command.read_text().replace(sys.executable, "python").replace(f"{HERE.parent.resolve()}{os.sep}", ""))
    shutil.copytree(run, target / experiment.algo / f"{env_id}_1", dirs_exist_ok=True)
    return round(sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e3)


def expand(suite: Path, data: str = "own") -> tuple[dict[tuple[str, ...], dict[str, Any]], list[tuple[Any, ...]]]:
    """:return: Runs by all of :data:`KEY` but the seed, and the keys of all rows, seed by seed."""
    common = yaml.safe_load(suite.read_text())
    specs: dict[tuple[str, ...], dict[str, Any]] = {}
    seeds: list[tuple[int, tuple[str, ...]]] = []
    for run in common.pop("runs"):
        axes = {**common, **run}
        many = {name: axes[name] for name in ("dataset", "env", "algorithm") if isinstance(axes.get(name), list)}
        for choice in itertools.product(*many.values()):
            spec = {"suite": suite.stem, "evaluate": {"episodes": 100}, **axes, **dict(zip(many, choice, strict=True))}
            spec["settings"] = {**common.get("settings", {}), **run.get("settings", {})}
            entry = spec.get("entry", None if "script" in spec else spec["env"])
            if entry is not None:
                spec["settings"] = entry_of(spec["algorithm"], entry) | spec["settings"]
            if "dataset" in spec:
                robot = spec["env"].rsplit("-", 1)[0].lower()
                spec["settings"]["dataset"] = DATA.get(data, data).format(robot=robot, kind=spec["dataset"])
            variant = str(spec.get("variant", spec["settings"]))
            key = (spec["algorithm"], variant, spec["env"], spec["settings"].get("dataset", ""))
            specs[key] = spec
            seeds += [(seed, key) for seed in spec["seeds"]]
    # A suite that is stopped early has all variants of the first seeds.
    return specs, [(*key, seed) for seed, key in sorted(seeds, key=lambda pair: pair[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", type=Path, help="files, also relative to benchmarks/")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder for the rows")
    parser.add_argument("--data", default="own", help="own, minari, d4rl or a pattern")
    args = parser.parse_args()
    suites = [(path if path.is_file() else HERE / path).resolve() for path in args.suites]
    results = args.results.resolve()

    def job_of(row: dict[str, str]) -> tuple[Any, ...]:
        return (*(row[name] for name in KEY[:-1]), int(row["seed"]))

    os.chdir(HERE.parent)  # the datasets' paths begin here
    for suite in suites:
        specs, jobs = expand(suite, args.data)
        for env_id in {spec["env"] for spec in specs.values()}:
            try:
                gym.make(env_id).close()
            except gym.error.Error as error:
                sys.exit(f"{suite.name}: {env_id}: {error}")
        # CUDA does not survive a fork.
        pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"))
        run_missing(results / f"{suite.stem}.csv", FIELDS, jobs, job_of, partial(train, specs, args.device), pool)


if __name__ == "__main__":
    main()
