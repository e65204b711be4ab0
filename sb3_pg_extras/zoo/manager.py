"""The RL Zoo's experiment manager, as our ``train`` and ``grid`` run it."""

import argparse
import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import optuna
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.zoo import CLASSES, UsageError, hyperparams_file, new_file
from sb3_pg_extras.zoo.storage import SharedStudy, open_storage


@contextlib.contextmanager
def errors_of_arguments() -> Iterator[None]:
    """:raises UsageError: for an error of Python's in this block, unless an environment of the user's raised it."""
    try:
        yield
    except (AssertionError, NameError, SyntaxError, TypeError, ValueError) as error:
        if _is_from_an_environment(error):
            raise
        raise UsageError(" ".join(str(error).split()) or repr(error)) from error


def _is_from_an_environment(error: Exception) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    modules = [frame.f_globals["__name__"] for frame in frames if isinstance(frame.f_locals.get("self"), gym.Env)]
    return any(not name.startswith(("gymnasium.", "stable_baselines3.")) for name in modules)


class Manager(ExperimentManager):
    """
    The zoo's manager, which finds our hyper-parameter files, without these bugs of rl_zoo3 2.9.2:

    - ``-optimize`` makes a run folder that never gets a model, and the next ``enjoy`` picks it as the latest run.
    - ``--trial-id 0``, the first trial of a study, is treated as no trial, and the entry is trained silently.
    - ``--max-total-trials`` counts the trials of dead workers, and a worker leaves before the others have ended.
    - ``lin_0.001`` is a schedule for ``learning_rate``, and an error for any other learning rate.

    :param args: The command line, which is saved with the model.
    :param algo: Id of the algorithm.
    :param more: Other arguments of the zoo's manager.
    :param config: The hyper-parameter file; by default the algorithm's.
    :param kwargs: Other keyword arguments of the zoo's manager.
    """

    def __init__(self, args: argparse.Namespace, algo: str, *more: Any, config: str | None = None, **kwargs: Any) -> None:
        if config is None and algo in CLASSES:
            config = str(hyperparams_file(algo))
        super().__init__(args, algo, *more, config=config, **kwargs)  # type: ignore[misc]

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """:raises UsageError: when no model can be made with the arguments."""
        with errors_of_arguments():
            return super().setup_experiment()

    def objective(self, trial: optuna.Trial) -> float:
        """:raises UsageError: when no model can be made with the arguments."""
        with errors_of_arguments():
            return super().objective(trial)

    def create_log_folder(self) -> None:
        """Make the folder of a run; a search has none."""
        if not self.optimize_hyperparameters:
            super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As the zoo's; a search writes no monitor files."""
        return super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """:raises UsageError: when there is no such trial."""
        try:
            study = optuna.load_study(storage=open_storage(storage), study_name=study_name)
            params = study.best_trial.params if trial_id is None else study.trials[trial_id].params
        except (IndexError, KeyError) as error:
            raise UsageError(f"--storage {storage} has no trial {trial_id} of --study-name {study_name}") from error
        return HYPERPARAMS_CONVERTER[self.algo](params) if convert else params

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        if "n_timesteps" not in hyperparams:
            if self.n_timesteps <= 0:
                raise UsageError(f"no n_timesteps for {self.env_name} in {self.config}: give -n")
            hyperparams["n_timesteps"] = self.n_timesteps
        preprocessed = super()._preprocess_hyperparams(hyperparams)
        if issubclass(ALGOS[self.algo], OfflineAlgorithm):
            # Each gradient step counts as one: --eval-freq and --save-freq must not be divided.
            self.n_envs = 1
        return preprocessed

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """As the zoo's, but a replay buffer beside the model does not replace the dataset that the command names."""
        model = super()._load_pretrained_agent(hyperparams, env)
        if "dataset" in (self.custom_hyperparams or {}):
            model.set_dataset(hyperparams["dataset"])  # type: ignore[attr-defined]
        return model

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the zoo's, with those of ``--trial-id 0`` too."""
        if self.trial_id == 0 and self.storage and self.study_name:
            print("Loading from Optuna study...")
            drawn = self.load_trial(self.storage, self.study_name, self.trial_id)
            self.custom_hyperparams = {**drawn, **(self.custom_hyperparams or {})}
        return super().read_hyperparameters()

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        """Strings such as ``lin_0.001`` become schedules for every learning rate, not for ``learning_rate`` alone."""
        schedules = ExperimentManager._preprocess_schedules
        for name, value in hyperparams.items():
            if name.endswith("_learning_rate") and isinstance(value, str):
                hyperparams[name] = schedules({"learning_rate": value})["learning_rate"]
        return schedules(hyperparams)

    def hyperparameters_optimization(self) -> None:
        """
        Search hyper-parameters: alone, or with ``--storage`` together with other workers, any of which may be killed.

        The pictures of the search are saved beside its report.
        """
        create_study = optuna.create_study
        studies: list[optuna.Study] = []
        no_plots, self.no_optim_plots = self.no_optim_plots, True
        if self.storage is not None:
            # The study counts them.
            total, self.max_total_trials = self.max_total_trials, None
            with errors_of_arguments():
                if total is not None and total < 1:
                    raise ValueError(f"--max-total-trials {total}: at least 1")
                storage = open_storage(self.storage)

        def create(**kwargs: Any) -> optuna.Study:
            if self.storage is None:
                study = create_study(**kwargs)
            else:
                name = create_study(**{**kwargs, "storage": storage}).study_name
                study = SharedStudy(name, storage, total, sampler=kwargs["sampler"], pruner=kwargs["pruner"])
            studies.append(study)
            return study

        optuna.create_study = create
        try:
            # Such as a search that was stopped before its first trial was complete.
            with errors_of_arguments():
                super().hyperparameters_optimization()
        finally:
            optuna.create_study = create_study
        if not no_plots:
            self._draw(studies[0])

    def _draw(self, study: optuna.Study) -> None:
        for name in ("optimization_history", "param_importances"):
            try:
                axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study)
            except (ImportError, RuntimeError, ValueError) as error:
                # Too few trials, or a missing package.
                print(f"No picture {name}: {error}")
                continue
            path = new_file(f"{self.log_path}{name}_{self.env_name}", ".png")
            axes.figure.savefig(path, bbox_inches="tight")
            print(f"Saved {path}")
