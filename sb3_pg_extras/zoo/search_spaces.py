"""
What the zoo's ``-optimize`` searches, for each of our algorithms.

A sampler draws from an Optuna trial; a converter turns what was drawn into arguments, also when the zoo reads a finished
trial back (``--trial-id``).
"""

from collections.abc import Callable
from typing import Any

import optuna
from torch import nn

NETWORKS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def sample_reinforce(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    :param trial: The trial to draw from.
    :param n_actions: Unused, as in the zoo's on-policy samplers.
    :param n_envs: Unused, likewise.
    :param additional_args: Unused, likewise.
    :return: Arguments of REINFORCE.
    """
    trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True)
    trial.suggest_categorical("n_episodes", [1, 2, 4, 8, 16, 32])
    trial.suggest_float("one_minus_gamma", 1e-4, 3e-2, log=True)
    trial.suggest_categorical("baseline", ["none", "mean", "value"])
    trial.suggest_categorical("normalize_returns", [False, True])
    trial.suggest_float("ent_coef", 1e-8, 1e-1, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True)
    trial.suggest_categorical("net_arch", list(NETWORKS))
    trial.suggest_categorical("activation_fn", list(ACTIVATIONS))
    return convert_reinforce(trial.params)


def convert_reinforce(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What :func:`sample_reinforce` drew.
    :return: Arguments of REINFORCE.
    """
    params = dict(params)
    baseline = params.pop("baseline")
    return {
        "policy_kwargs": {
            "net_arch": NETWORKS[params.pop("net_arch")],
            "activation_fn": ACTIVATIONS[params.pop("activation_fn")],
        },
        "gamma": 1.0 - params.pop("one_minus_gamma"),
        "baseline": None if baseline == "none" else baseline,
        **params,
    }


def sample_single_step_a2c(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    :param trial: The trial to draw from.
    :param n_actions: Unused, as in the zoo's on-policy samplers.
    :param n_envs: Unused, likewise.
    :param additional_args: Unused, likewise.
    :return: Arguments of SingleStepA2C.
    """
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_float("critic_learning_rate", 1e-5, 1e-2, log=True)
    trial.suggest_float("one_minus_gamma", 1e-4, 3e-2, log=True)
    trial.suggest_float("trace_decay", 0.0, 0.98)
    trial.suggest_float("ent_coef", 1e-8, 1e-1, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True)
    trial.suggest_categorical("net_arch", list(NETWORKS))
    trial.suggest_categorical("activation_fn", list(ACTIVATIONS))
    return convert_single_step_a2c(trial.params)


def convert_single_step_a2c(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What :func:`sample_single_step_a2c` drew.
    :return: Arguments of SingleStepA2C.
    """
    params = dict(params)
    return {
        "policy_kwargs": {
            "net_arch": NETWORKS[params.pop("net_arch")],
            "activation_fn": ACTIVATIONS[params.pop("activation_fn")],
        },
        "gamma": 1.0 - params.pop("one_minus_gamma"),
        **params,
    }


SAMPLERS: dict[str, Callable[..., dict[str, Any]]] = {
    "reinforce": sample_reinforce,
    "single_step_a2c": sample_single_step_a2c,
}
CONVERTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "reinforce": convert_reinforce,
    "single_step_a2c": convert_single_step_a2c,
}
