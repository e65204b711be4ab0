"""
What the zoo's ``-optimize`` searches, for each of our algorithms.

A function here draws from an Optuna trial. One converter turns what any of them drew into arguments, also when the zoo reads
a finished trial back (``--trial-id``). One more algorithm is one more function, and one more line at the end.
"""

from collections.abc import Callable
from typing import Any

import optuna
from torch import nn

NETWORKS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
VAE_NETWORKS = {"small": [128, 128], "medium": [256, 256], "big": [750, 750]}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
# Name of a choice -> the arguments that its values stand for.
POLICY_KWARGS: dict[str, dict[str, Any]] = {
    "net_arch": NETWORKS,
    "vae_net_arch": VAE_NETWORKS,
    "activation_fn": ACTIVATIONS,
}


def draw_bc(trial: optuna.Trial) -> None:
    """
    :param trial: The trial to draw from. The dataset is not searched.
    """
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_categorical("batch_size", [64, 100, 256, 512])
    _draw_network(trial)


def draw_bear(trial: optuna.Trial) -> None:
    """
    :param trial: The trial to draw from. The dataset and ``warmup_steps``, a part of ``n_timesteps``, are not searched: the
        entry or the command line has them.
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


def draw_reinforce(trial: optuna.Trial) -> None:
    """
    :param trial: The trial to draw from.
    """
    trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True)
    trial.suggest_categorical("n_episodes", [1, 2, 4, 8, 16, 32])
    trial.suggest_categorical("baseline", ["none", "mean", "value"])
    trial.suggest_categorical("normalize_advantage", [False, True])
    _draw_online(trial)


def draw_single_step_a2c(trial: optuna.Trial) -> None:
    """
    :param trial: The trial to draw from.
    """
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_float("critic_learning_rate", 1e-5, 1e-2, log=True)
    trial.suggest_float("trace_decay", 0.0, 0.98)
    _draw_online(trial)


def _draw_online(trial: optuna.Trial) -> None:
    trial.suggest_float("one_minus_gamma", 1e-4, 1e-1, log=True)
    trial.suggest_float("ent_coef", 1e-8, 1e-1, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True)
    _draw_network(trial)


def _draw_network(trial: optuna.Trial) -> None:
    trial.suggest_categorical("net_arch", list(NETWORKS))
    trial.suggest_categorical("activation_fn", list(ACTIVATIONS))


def convert(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What one of the functions above drew.
    :return: Arguments of its algorithm.
    """
    params = dict(params)
    choices = [name for name in POLICY_KWARGS if name in params]
    policy_kwargs = {name: POLICY_KWARGS[name][params.pop(name)] for name in choices}
    if "one_minus_gamma" in params:
        params["gamma"] = 1.0 - params.pop("one_minus_gamma")
    if params.get("baseline") == "none":
        params["baseline"] = None
    return {"policy_kwargs": policy_kwargs, **params}


def _sampler(draw: Callable[[optuna.Trial], None]) -> Callable[..., dict[str, Any]]:
    def sample(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        """What the zoo calls; of its arguments, only the trial is used."""
        draw(trial)
        return convert(trial.params)

    return sample


SAMPLERS: dict[str, Callable[..., dict[str, Any]]] = {
    "bc": _sampler(draw_bc),
    "bear": _sampler(draw_bear),
    "reinforce": _sampler(draw_reinforce),
    "single_step_a2c": _sampler(draw_single_step_a2c),
}
CONVERTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = dict.fromkeys(SAMPLERS, convert)
