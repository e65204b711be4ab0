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
VAE_NETWORKS = {"small": [128, 128], "medium": [256, 256], "big": [750, 750]}
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
    trial.suggest_float("one_minus_gamma", 1e-4, 1e-1, log=True)
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
    trial.suggest_float("one_minus_gamma", 1e-4, 1e-1, log=True)
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


def sample_bear(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    The dataset and ``warmup_steps``, a part of ``n_timesteps``, are not searched: the entry or the command line has them.

    :param trial: The trial to draw from.
    :param n_actions: Unused, as in the zoo's samplers.
    :param n_envs: Unused, likewise.
    :param additional_args: Unused, likewise.
    :return: Arguments of BEAR.
    """
    trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    trial.suggest_float("critic_learning_rate", 1e-4, 1e-3, log=True)
    trial.suggest_float("vae_learning_rate", 1e-4, 1e-3, log=True)
    trial.suggest_float("alpha_learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("batch_size", [100, 256, 512])
    trial.suggest_float("tau", 1e-3, 2e-2, log=True)
    trial.suggest_float("one_minus_gamma", 1e-3, 3e-2, log=True)
    trial.suggest_categorical("mmd_kernel", ["laplacian", "gaussian"])
    trial.suggest_float("mmd_sigma", 1.0, 50.0, log=True)
    trial.suggest_int("n_mmd_samples", 4, 10)
    trial.suggest_categorical("mmd_estimator", ["biased", "unbiased"])
    trial.suggest_float("mmd_threshold", 0.03, 0.5, log=True)
    trial.suggest_float("target_q_mixture", 0.5, 1.0)
    trial.suggest_categorical("net_arch", list(NETWORKS))
    trial.suggest_categorical("vae_net_arch", list(VAE_NETWORKS))
    return convert_bear(trial.params)


def convert_bear(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What :func:`sample_bear` drew.
    :return: Arguments of BEAR.
    """
    params = dict(params)
    return {
        "policy_kwargs": {
            "net_arch": NETWORKS[params.pop("net_arch")],
            "vae_net_arch": VAE_NETWORKS[params.pop("vae_net_arch")],
        },
        "gamma": 1.0 - params.pop("one_minus_gamma"),
        **params,
    }


SAMPLERS: dict[str, Callable[..., dict[str, Any]]] = {
    "bear": sample_bear,
    "reinforce": sample_reinforce,
    "single_step_a2c": sample_single_step_a2c,
}
CONVERTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bear": convert_bear,
    "reinforce": convert_reinforce,
    "single_step_a2c": convert_single_step_a2c,
}
