"""
What the study of BEAR compares and the package does not have.

Ways to choose an action, on the same weights: the actor's mean, or the best of N candidates under the first critic, the
critics' minimum or the target critics' minimum; and each with an actor averaged over training.

:func:`layer_norm`: critics with layer normalisation.
"""

import copy
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ContinuousCritic
from torch import nn

from sb3_pg_extras.bear.policies import BEARPolicy
from sb3_pg_extras.offline.policies import q_values

RULES = ["mean", *(f"{critics}, {n}" for critics in ("first critic", "minimum", "target minimum") for n in (10, 100))]
# Weight of a gradient step's actor in the average.
AVERAGING = 5e-4


class Rule:
    """
    :param policy: The policy.
    :param actor: Its actor, or an average of it.
    :param name: Of :data:`RULES`.
    """

    def __init__(self, policy: BEARPolicy, actor: nn.Module, name: str) -> None:
        self.policy, self.name = copy.copy(policy), name
        # A module's copy shares its table of parts.
        self.policy._modules = policy._modules | {"actor": actor}

    def predict(self, observation: Any, *_args: Any, **_kwargs: Any) -> tuple[np.ndarray, None]:
        """:return: Actions in environment units, (B, A), and no state."""
        policy = self.policy
        with th.no_grad():
            states, _ = policy.obs_to_tensor(observation)
            if self.name == "mean":
                actions = policy.actor(states, deterministic=True)
            else:
                critics, n = self.name.rsplit(", ", 1)
                candidates = policy.candidates(states, policy.candidate_noise[:, : int(n)])
                values = q_values(policy.critic_target if "target" in critics else policy.critic, states, candidates)
                best = (values[0] if critics == "first critic" else values.amin(dim=0)).argmax(dim=1)
                actions = candidates[th.arange(len(best)), best]
        return policy.unscale_action(actions.cpu().numpy()), None


class AveragedActor(BaseCallback):
    """Keeps an exponential average of the actor's weights."""

    def _on_training_start(self) -> None:
        self.actor: Any = copy.deepcopy(self.model.policy.actor)

    def _on_step(self) -> bool:
        with th.no_grad():
            current: Any = self.model.policy.actor
            for average, weight in zip(self.actor.parameters(), current.parameters(), strict=True):
                average.lerp_(weight, AVERAGING)
        return True

    def rules(self) -> dict[str, Rule]:
        """:return: All rules, with the actor and with its average."""
        actors: dict[str, Any] = {"": self.model.policy.actor, "averaged actor, ": self.actor}
        return {
            prefix + name: Rule(self.model.policy, actor, name)  # type: ignore[arg-type]
            for prefix, actor in actors.items()
            for name in RULES
        }


def layer_norm(module: nn.Module) -> None:
    """
    Normalise the hidden layers of a critic, before the activation (a suite's ``initialise``).

    :param module: A part of the policy; only critics are changed.
    """
    if not isinstance(module, ContinuousCritic):
        return
    for number, network in enumerate(module.q_networks):
        *hidden, last = network.children()
        norms = [nn.LayerNorm(layer.out_features) for layer in hidden[::2]]
        # Linear, norm, activation, ...
        layers = [layer for three in zip(hidden[::2], norms, hidden[1::2], strict=True) for layer in three]
        normalized = nn.Sequential(*layers, last)
        setattr(module, f"qf{number}", normalized)
        module.q_networks[number] = normalized
        if hasattr(module, "optimizer"):  # the target critics have none
            module.optimizer.add_param_group({"params": [parameter for norm in norms for parameter in norm.parameters()]})
