"""
The search space of the zoo's ``-optimize`` for each of our algorithms.

One converter turns the drawn values into arguments, also when the zoo reads a finished trial back (``--trial-id``).
"""

from functools import partial
from typing import Any

import optuna
from torch import nn

# Name of a choice -> the arguments that its values stand for.
POLICY_KWARGS: dict[str, dict[str, Any]] = {
    "net_arch": {"tiny": [64], "small": [64, 64], "medium": [256, 256]},
    "vae_net_arch": {"small": [128, 128], "medium": [256, 256], "big": [750, 750]},
    "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU},
}
NET_ARCH, VAE_NET_ARCH, ACTIVATION_FN = (
    {name: list(POLICY_KWARGS[name])} for name in ("net_arch", "vae_net_arch", "activation_fn")
)
# Below, a list has choices, a tuple the bounds of a number (an integer if they are) and whether to draw its logarithm.
CRITICS = {
    "learning_rate": (1e-4, 3e-3, True),
    "batch_size": [100, 256, 512],
    "tau": (1e-3, 2e-2, True),
    "one_minus_gamma": (1e-3, 3e-2, True),
    "n_steps": [1, 3, 5],
}
ONLINE = {
    "one_minus_gamma": (1e-4, 1e-1, True),
    "ent_coef": (1e-8, 1e-1, True),
    "max_grad_norm": (0.3, 5.0, True),
    **NET_ARCH,
    **ACTIVATION_FN,
}
SEARCH_SPACES: dict[str, dict[str, Any]] = {
    "bc": {"learning_rate": (1e-5, 3e-3, True), "batch_size": [64, 100, 256, 512], **NET_ARCH, **ACTIVATION_FN},
    "bcq": {
        **CRITICS,
        "max_perturbation": (0.01, 0.5, True),
        "target_q_mixture": (0.5, 1.0, False),
        **NET_ARCH,
        **VAE_NET_ARCH,
    },
    # The dataset and warmup_fraction are those of the entry or of the command line.
    "bear": {
        "learning_rate": (1e-5, 1e-3, True),
        "critic_learning_rate": (1e-4, 3e-3, True),
        "vae_learning_rate": (1e-4, 1e-3, True),
        "alpha_learning_rate": (1e-4, 1e-2, True),
        "batch_size": [100, 256, 512],
        "tau": (1e-3, 5e-2, True),
        "one_minus_gamma": (1e-3, 3e-2, True),
        "n_steps": [1, 3, 5],
        "mmd_kernel": ["laplacian", "gaussian"],
        "mmd_sigma": (1.0, 50.0, True),
        "n_mmd_samples": (4, 10, False),
        "mmd_estimator": ["biased", "pooled", "unbiased"],
        "mmd_threshold": ["auto", 0.03, 0.05, 0.1, 0.2, 0.5],
        "target_q_mixture": (0.5, 1.0, False),
        **NET_ARCH,
        **VAE_NET_ARCH,
    },
    "reinforce": {
        "learning_rate": (1e-4, 3e-2, True),
        "n_episodes": [1, 2, 4, 8, 16, 32],
        "baseline": [None, "mean", "value"],
        "normalize_advantage": [False, True],
        **ONLINE,
    },
    "single_step_a2c": {
        "learning_rate": (1e-5, 3e-3, True),
        "critic_learning_rate": (1e-5, 1e-2, True),
        "trace_decay": (0.0, 0.98, False),
        **ONLINE,
    },
    "td3_bc": {**CRITICS, "alpha": (0.1, 50.0, True), **NET_ARCH},
}


def sample(algo: str, trial: optuna.Trial, *_: Any) -> dict[str, Any]:
    """
    :param algo: Id of the algorithm.
    :param trial: The trial to draw from; of what the zoo passes, only this is used.
    :return: Arguments of the algorithm.
    """
    for name, values in SEARCH_SPACES[algo].items():
        if isinstance(values, list):
            trial.suggest_categorical(name, values)
        else:
            low, high, log = values
            suggest: Any = trial.suggest_int if isinstance(low, int) else trial.suggest_float
            suggest(name, low, high, log=log)
    return convert(trial.params)


def convert(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: What a trial drew.
    :return: Arguments of the algorithm.
    """
    policy_kwargs = {name: choices[params[name]] for name, choices in POLICY_KWARGS.items() if name in params}
    kwargs = {name: value for name, value in params.items() if name not in {"one_minus_gamma", *policy_kwargs}}
    if "one_minus_gamma" in params:
        kwargs["gamma"] = 1.0 - params["one_minus_gamma"]
    return {"policy_kwargs": policy_kwargs, **kwargs}


SAMPLERS = {algo: partial(sample, algo) for algo in SEARCH_SPACES}
CONVERTERS = dict.fromkeys(SEARCH_SPACES, convert)
