"""A base of offline algorithms' policies, and what gradient steps do with their networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from torch import nn

from sb3_pg_extras.common.algorithm import WholePolicy

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class FinitePolicy(WholePolicy):
    """A policy whose ``predict`` raises, as SAC's does, rather than return an action that is not a number; saved whole."""

    def predict(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """:raises ValueError: when an action is not finite: the observation is not, or the weights are not."""
        actions, state = super().predict(*args, **kwargs)
        if not np.isfinite(actions).all():
            raise ValueError(f"the action is not finite: {actions}. Look at the observation, and whether training diverged")
        return actions, state


def q_values(critic: ContinuousCritic, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    All critics at several actions per state; the features of a state are computed once.

    :param critic: The critics.
    :param obs: Observations of B states.
    :param actions: Actions in [-1, 1], shape (B, n, A).
    :return: shape (C, B, n).
    """
    inputs = critic_inputs(critic, obs, actions)
    return th.stack([q_network(inputs).squeeze(2) for q_network in critic.q_networks]).float()


def critic_inputs(critic: ContinuousCritic, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    :param critic: The critics.
    :param obs: Observations of B states.
    :param actions: Actions in [-1, 1], shape (B, n, A).
    :return: What each Q network takes, shape (B, n, features + A).
    """
    # As in ContinuousCritic.forward: shared features learn from the actor's loss alone.
    with th.set_grad_enabled(th.is_grad_enabled() and not critic.share_features_extractor):
        features = critic.extract_features(obs, critic.features_extractor)
    return th.cat([features.unsqueeze(1).expand(-1, actions.shape[1], -1), actions], dim=2)


def descend(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    """
    One step of an optimiser. Other networks that the loss involves are left as they are, and get no gradient.

    :param optimizer: The optimiser.
    :param loss: scalar.
    """
    optimizer.zero_grad()
    loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"] if p.requires_grad])
    optimizer.step()
    # autocast caches bfloat16 copies of the weights, which are now outdated.
    th.clear_autocast_cache()


def update_target(network: nn.Module, target: nn.Module, tau: float) -> None:
    """
    ``target <- tau network + (1 - tau) target``; running statistics of batch normalisation are copied, as in SB3.

    :param network: The network that learns.
    :param target: The network that follows it.
    :param tau: Polyak coefficient, between 0 and 1.
    """
    polyak_update(network.parameters(), target.parameters(), tau)
    statistics = [get_parameters_by_name(module, ["running_"]) for module in (network, target)]
    polyak_update(statistics[0], statistics[1], 1.0)


@contextmanager
def seeded_dropout(policy: nn.Module, generator: th.Generator) -> Iterator[None]:
    """
    Dropout draws from PyTorch's global generator. In this block it is seeded from training's own if there is any dropout, so
    that a run can be repeated and resumed, whatever else draws.

    :param policy: The networks.
    :param generator: Training's generator.
    """
    if not any(isinstance(module, DROPOUT) for module in policy.modules()):
        yield
        return
    device = generator.device
    with th.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        th.manual_seed(int(th.randint(2**31, (1,), generator=generator, device=device)))
        yield
