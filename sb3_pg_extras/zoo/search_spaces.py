"""
The search space of the zoo's ``-optimize`` for each of our algorithms.

The functions here draw from an Optuna trial. One converter turns the drawn values into arguments, also when the zoo reads a
finished trial back (``--trial-id``).
"""

from collections.abc import Callable
from typing import Any

import optuna
from torch import nn

# Name of a choice -> the arguments that its values stand for.
POLICY_KWARGS: dict[str, dict[str, Any]] = {
    "net_arch": {"tiny": [64], "small": [64, 64], "medium": [256, 256]},
    "vae_net_arch": {"small": [128, 128], "medium": [256, 256], "big": [750, 750]},
    "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU},
}


def _draw_bc(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_categorical("batch_size", [64, 100, 256, 512])
    _draw_policy_kwargs(trial, "net_arch", "activation_fn")


def _draw_bcq(trial: optuna.Trial) -> None:
    _draw_critics(trial)
    trial.suggest_float("max_perturbation", 0.01, 0.5, log=True)
    trial.suggest_float("target_q_mixture", 0.5, 1.0)
    _draw_policy_kwargs(trial, "net_arch", "vae_net_arch")


def _draw_td3_bc(trial: optuna.Trial) -> None:
    _draw_critics(trial)
    trial.suggest_float("alpha", 0.1, 50.0, log=True)
    _draw_policy_kwargs(trial, "net_arch")


def _draw_critics(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True)
    trial.suggest_categorical("batch_size", [100, 256, 512])
    trial.suggest_float("tau", 1e-3, 2e-2, log=True)
    trial.suggest_float("one_minus_gamma", 1e-3, 3e-2, log=True)
    trial.suggest_categorical("n_steps", [1, 3, 5])


def _draw_bear(trial: optuna.Trial) -> None:
    # The dataset and warmup_fraction are those of the entry or of the command line.
    trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    trial.suggest_float("critic_learning_rate", 1e-4, 3e-3, log=True)
    trial.suggest_float("vae_learning_rate", 1e-4, 1e-3, log=True)
    trial.suggest_float("alpha_learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("batch_size", [100, 256, 512])
    trial.suggest_float("tau", 1e-3, 5e-2, log=True)
    trial.suggest_float("one_minus_gamma", 1e-3, 3e-2, log=True)
    trial.suggest_categorical("n_steps", [1, 3, 5])
    trial.suggest_categorical("mmd_kernel", ["laplacian", "gaussian"])
    trial.suggest_float("mmd_sigma", 1.0, 50.0, log=True)
    trial.suggest_int("n_mmd_samples", 4, 10)
    trial.suggest_categorical("mmd_estimator", ["biased", "pooled", "unbiased"])
    trial.suggest_categorical("mmd_threshold", ["auto", 0.03, 0.05, 0.1, 0.2, 0.5])
    trial.suggest_float("target_q_mixture", 0.5, 1.0)
    _draw_policy_kwargs(trial, "net_arch", "vae_net_arch")


def _draw_reinforce(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True)
    trial.suggest_categorical("n_episodes", [1, 2, 4, 8, 16, 32])
    trial.suggest_categorical("baseline", [None, "mean", "value"])
    trial.suggest_categorical("normalize_advantage", [False, True])
    _draw_online(trial)


def _draw_single_step_a2c(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_float("critic_learning_rate", 1e-5, 1e-2, log=True)
    trial.suggest_float("trace_decay", 0.0, 0.98)
    _draw_online(trial)


def _draw_online(trial: optuna.Trial) -> None:
    trial.suggest_float("one_minus_gamma", 1e-4, 1e-1, log=True)
    trial.suggest_float("ent_coef", 1e-8, 1e-1, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True)
    _draw_policy_kwargs(trial, "net_arch", "activation_fn")


def _draw_policy_kwargs(trial: optuna.Trial, *names: str) -> None:
    for name in names:
        trial.suggest_categorical(name, list(POLICY_KWARGS[name]))


def convert(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What one of the functions above drew.
    :return: Arguments of its algorithm.
    """
    policy_kwargs = {name: choices[params[name]] for name, choices in POLICY_KWARGS.items() if name in params}
    kwargs = {name: value for name, value in params.items() if name not in {"one_minus_gamma", *policy_kwargs}}
    if "one_minus_gamma" in params:
        kwargs["gamma"] = 1.0 - params["one_minus_gamma"]
    return {"policy_kwargs": policy_kwargs, **kwargs}


def _sampler(draw: Callable[[optuna.Trial], None]) -> Callable[..., dict[str, Any]]:
    """What the zoo calls; of its arguments, only the trial is used."""

    def sample(trial: optuna.Trial, *_: Any) -> dict[str, Any]:
        draw(trial)
        return convert(trial.params)

    return sample


DRAWS = {
    "bc": _draw_bc,
    "bcq": _draw_bcq,
    "bear": _draw_bear,
    "reinforce": _draw_reinforce,
    "single_step_a2c": _draw_single_step_a2c,
    "td3_bc": _draw_td3_bc,
}
SAMPLERS = {algo: _sampler(draw) for algo, draw in DRAWS.items()}
CONVERTERS = dict.fromkeys(DRAWS, convert)
