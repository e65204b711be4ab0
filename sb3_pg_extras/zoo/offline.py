"""
``sb3-pg-extras train --dataset``: the zoo's ``train`` on a log, without an environment.

Spaces come from the data, and evaluation is fitted Q evaluation on held-out episodes. The run folder is the zoo's, with a
``split.yml`` that tells ``evaluate`` which episodes were held out.
"""

import argparse
import functools
import importlib
import os
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import rl_zoo3.exp_manager
import yaml
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_pg_extras.datasets import DatasetError, DatasetSource, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.layout import has_spaces
from sb3_pg_extras.datasets.sharded import is_sharded
from sb3_pg_extras.offline.evaluation import FQECallback, check_episodes_end
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.sources import DatasetEnv, open_dataset
from sb3_pg_extras.zoo import ALGORITHMS, UsageError
from sb3_pg_extras.zoo.inspect import dataset_name
from sb3_pg_extras.zoo.manager import Manager

HELD_OUT = 0.2
# All runs hold out the same episodes, whatever their seed, so that their figures can be compared.
SPLIT_SEED = 0
FQE_STEPS = 10_000
# Arguments that change what an environment returns, and cannot be applied to a dataset.
WRAPPERS = ("env_kwargs", "env_wrapper", "frame_stack", "vec_env_wrapper")


def no_environment(**_: Any) -> gym.Env:
    """The zoo needs a registered id; its environment is never made."""
    raise UsageError("there is a dataset, and no environment")


def run_name(source: str) -> str:
    """
    :param source: What ``load_dataset`` takes, as a string.
    :return: The name of its runs, which stands in for an environment's id: ``robot`` for ``robot.npz``.
    """
    name = re.sub(r"[^\w.-]+", "-", dataset_name(source))
    known = gym.registry.get(name)
    return name if known is None or known.entry_point is no_environment else f"{name}-dataset"


def share_or_dataset(value: str) -> float | str:
    """
    :param value: The value of ``--held-out``.
    :return: A share of the episodes, at least 0 and below 1, or a dataset's name.
    :raises ArgumentTypeError: for any other number.
    """
    try:
        share = float(value)
    except ValueError:
        return value
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected a share of the episodes, 0 or more and below 1, or a dataset")
    return share


class Split:
    """
    The training data and the held-out data.

    :param source: Whatever ``load_dataset`` takes, as a string, or ``"sharded:<path>"``.
    :param held_out: The share of the episodes to hold out; 0 to evaluate on the training data; or another dataset.
    :raises DatasetError: when one of the two cannot be used or would be empty, or their spaces differ.
    """

    def __init__(self, source: str, held_out: float | str) -> None:
        if is_sharded(source) and not isinstance(held_out, str):
            raise DatasetError(
                f"{source}: never in memory as a whole, so nothing is held out of it. --held-out takes a file"
            )
        other = load_dataset(held_out) if isinstance(held_out, str) else None
        data = open_dataset(source, None if other is None else other.action_space)
        self.first = data if isinstance(data, OfflineDataset) else data.first
        # A path is saved with the model, and its data may be larger than memory.
        self.training: DatasetSource = source
        self.facts: dict[str, Any] = {"dataset": _absolute(source), "held_out": held_out, "seed": SPLIT_SEED}
        if other is not None:
            self.held_out, self.facts["held_out"] = other, _absolute(str(held_out))
            if not has_spaces(other, self.first.observation_space, self.first.action_space):
                spaces = [f"{part.observation_space} and {part.action_space}" for part in (other, self.first)]
                raise DatasetError(f"--held-out {held_out} has the spaces {spaces[0]}, {source} has {spaces[1]}")
        else:
            assert isinstance(data, OfflineDataset)
            check_episodes_end(data)
            self.held_out = data
            if held_out:
                try:
                    self.training, self.held_out = data.split(1 - float(held_out), SPLIT_SEED)
                except DatasetError as error:
                    hint = "--held-out takes another share, another file, or 0 to evaluate on the training data"
                    raise DatasetError(f"{source}: {error}. {hint}") from error
        if isinstance(data, OfflineDataset):
            self.facts |= fingerprint(data)
        check_episodes_end(self.held_out)


def _absolute(source: str) -> str:
    return os.path.abspath(source) if os.path.exists(source) else source


def fingerprint(dataset: OfflineDataset) -> dict[str, Any]:
    """
    :param dataset: A dataset.
    :return: Figures that identify it.
    """
    rewards = float(dataset.rewards.sum(dtype=np.float64))
    return {"transitions": len(dataset), "episodes": dataset.n_episodes, "rewards": rewards}


def held_out_of(run: Path, source: str) -> tuple[OfflineDataset, str]:
    """
    :param run: Folder of a run.
    :param source: The dataset to evaluate its models on.
    :return: The episodes that a run without an environment held out, or all of them; and a description.
    :raises DatasetError: when it cannot be used.
    """
    splits = [yaml.safe_load(path.read_text()) for path in run.glob("*/split.yml")]
    known: dict[str, Any] = splits[0] if splits else {}
    if is_sharded(source):
        if known.get("dataset") != source:
            name = run.name.rpartition("_")[0] or run_name(source)
            raise DatasetError(
                f"{source}: never in memory as a whole, and not what {run} was trained on. "
                f"Evaluate on a file: evaluate --dataset robot.npz --env {name}"
            )
        # Split holds nothing out of shards: the run was given other data.
        data = load_dataset(known["held_out"])
        check_episodes_end(data)
        return data, known["held_out"]
    data = load_dataset(source)
    if fingerprint(data).items() <= known.items():
        data, held_out = Split(source, known["held_out"]).held_out, known["held_out"]
        if held_out != 0:
            return data, held_out if isinstance(held_out, str) else f"what the run held out of {source}"
    elif known.get("dataset") == _absolute(source):
        raise DatasetError(f"{source} has changed since {run} was trained: what it held out cannot be known")
    else:
        check_episodes_end(data)
    return data, f"all of {source}"


class TrainParser(argparse.ArgumentParser):
    """The zoo's parser of ``train`` with flags for a dataset, with or without an environment."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse's. A dataset without an environment is read at once."""
        group = self.add_argument_group("dataset, for offline algorithms; without --env it stands for the environment")
        group.add_argument("--dataset", help="short for -params dataset:DATASET")
        held_out = f"without --env: share of the episodes to evaluate on, or 0, or another dataset (default: {HELD_OUT})"
        group.add_argument("--held-out", help=held_out, type=share_or_dataset)
        group.add_argument("--fqe-steps", help=f"gradient steps of each offline evaluation (default: {FQE_STEPS})", type=int)
        env = self.get_default("env")
        self.set_defaults(env=None)
        known: Any = super().parse_args(*args, **kwargs)
        without_env = known.env is None and known.dataset is not None
        if not without_env and not (known.held_out is None and known.fqe_steps is None):
            raise UsageError(
                "--held-out and --fqe-steps are for --dataset without --env: an environment evaluates by itself"
            )
        known.env = known.env or env
        agent = Path(known.trained_agent)
        if known.trained_agent and not (agent.is_file() and agent.suffix == ".zip"):
            raise UsageError(f"--trained-agent {agent}: not a model, a file that ends in .zip")
        if known.trained_agent and known.optimize_hyperparameters:
            raise UsageError("-optimize searches with new models: leave out --trained-agent")
        if known.trial_id is not None and not (known.storage and known.study_name):
            raise UsageError(f"--trial-id {known.trial_id} is of a study: name its --storage and --study-name")
        if known.dataset is None:
            return known
        algorithms: dict[str, type] = ALGORITHMS
        offline = [algo for algo, cls in algorithms.items() if issubclass(cls, OfflineAlgorithm)]
        if known.algo not in offline:
            raise UsageError(
                f"--dataset: {known.algo} learns from an environment. From a dataset learn {', '.join(offline)}"
            )
        known.hyperparams = known.hyperparams or {}
        if known.hyperparams.setdefault("dataset", known.dataset) != known.dataset:
            raise UsageError(f"two datasets: --dataset {known.dataset}, -params dataset:{known.hyperparams['dataset']}")
        if without_env:
            _prepare(known)
        return known


def _prepare(args: argparse.Namespace) -> None:
    """Read the dataset, and have the zoo's ``train`` do without an environment."""
    args.held_out = HELD_OUT if args.held_out is None else args.held_out
    args.fqe_steps = FQE_STEPS if args.fqe_steps is None else args.fqe_steps
    if args.fqe_steps < 1:
        raise UsageError(f"--fqe-steps {args.fqe_steps}: at least 1")
    if args.env_kwargs or args.eval_env_kwargs:
        raise UsageError("--env-kwargs, --eval-env-kwargs: there is no environment")
    split = Split(args.dataset, args.held_out)
    args.env = run_name(args.dataset)
    # Not gym.register: it refuses "Hopper", since there is "Hopper-v5".
    gym.registry[args.env] = EnvSpec(args.env, no_environment)
    print(f"Training on {split.training}, evaluating on {split.held_out}")
    train: Any = importlib.import_module("rl_zoo3.train")
    train.ExperimentManager = functools.partial(OfflineManager, split, args.fqe_steps)


class OfflineManager(Manager):
    """
    The manager of a run without an environment.

    :param split: The training data and the held-out data.
    :param fqe_steps: Gradient steps of each evaluation.
    """

    def __init__(self, split: Split, fqe_steps: int, *args: Any, **kwargs: Any) -> None:
        self.split, self.fqe_steps = split, fqe_steps
        super().__init__(*args, **kwargs)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the zoo's: the first with the episodes to learn from, the second, to save, with the dataset's name."""
        hyperparams, saved = super().read_hyperparameters()
        wrappers = [name for name in WRAPPERS if hyperparams.get(name)]
        if wrappers:
            raise UsageError(f"{', '.join(wrappers)} in {self.config}: there is no environment")
        return {**hyperparams, "dataset": self.split.training}, saved

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """:return: An environment with the dataset's spaces, and nothing to step."""
        return self._maybe_normalize(DummyVecEnv([lambda: DatasetEnv(self.split.first)]), eval_env)

    def create_callbacks(self) -> None:
        """Evaluate the model every ``--eval-freq`` gradient steps, and once at the end of a shorter run."""
        eval_freq, self.eval_freq = min(self.eval_freq, self.n_timesteps), -1
        super().create_callbacks()
        if eval_freq > 0 and not self.optimize_hyperparameters:
            what = (self.split.held_out, eval_freq, self.fqe_steps, self.save_path, self.save_path)
            callback = FQECallback(*what, verbose=1, progress_bar=not self.show_progress)
            self.callbacks += [callback, SaveStatistics(self.params_path)]

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        super()._save_config(saved_hyperparams)
        Path(self.params_path, "split.yml").write_text(yaml.safe_dump(self.split.facts))

    def hyperparameters_optimization(self) -> None:
        """Search hyper-parameters for the highest offline value."""
        module: Any = rl_zoo3.exp_manager
        theirs, module.TrialEvalCallback = module.TrialEvalCallback, self._trial_callback
        try:
            super().hyperparameters_optimization()
        finally:
            module.TrialEvalCallback = theirs

    def _trial_callback(self, _: VecEnv, trial: optuna.Trial, *, eval_freq: int, log_path: str | None, **__: Any) -> Any:
        # Values with different discount factors cannot be compared.
        gamma = self._hyperparams.get("gamma", 0.99)
        what = (self.split.held_out, eval_freq, self.fqe_steps, log_path, log_path)
        return TrialFQECallback(trial, *what, progress_bar=True, gamma=gamma)


class SaveStatistics(BaseCallback):
    """
    Saves ``VecNormalize`` when training starts, since its statistics are the dataset's: a run that is killed has them.

    :param folder: Where to save them.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def _on_training_start(self) -> None:
        statistics = self.model.get_vec_normalize_env()
        if statistics is not None:
            statistics.save(os.path.join(self.folder, "vecnormalize.pkl"))

    def _on_step(self) -> bool:
        return True


class TrialFQECallback(FQECallback):
    """The zoo's ``TrialEvalCallback`` without an environment: evaluates a trial, reports the values, and prunes it."""

    def __init__(self, trial: optuna.Trial, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trial = trial
        self.is_pruned = False
        self.last_mean_reward = -np.inf

    def _on_step(self) -> bool:
        n_before = len(self.evaluations)
        super()._on_step()
        if len(self.evaluations) > n_before:
            last = self.evaluations[-1]
            self.last_mean_reward = last["value"] if last["possible"] else -np.inf
            self.trial.report(self.last_mean_reward, len(self.evaluations))
            self.is_pruned = self.trial.should_prune()
        return not self.is_pruned
