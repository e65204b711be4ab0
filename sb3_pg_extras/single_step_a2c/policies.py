"""Stream AC(lambda) on top of SingleStepA2C: its networks and its settings."""

import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional as F

from sb3_pg_extras.common.algorithm import WholePolicy
from sb3_pg_extras.single_step_a2c.optimizers import ObGD

# Stream AC(lambda) (Elsayed, Vasan and Mahmood 2024): SingleStepA2C("StreamPolicy", env, **STREAM_PRESET), on an environment
# whose observations and rewards VecNormalize normalises.
STREAM_PRESET: dict[str, Any] = {
    "learning_rate": 1.0,
    "critic_learning_rate": 1.0,
    "critic_optimizer_kwargs": {"kappa": 2.0},
    "gamma": 0.99,
    "trace_decay": 0.8,
    "ent_coef": 0.01,
    "max_grad_norm": None,
}


class StreamPolicy(WholePolicy, ActorCriticPolicy):
    """
    SB3's actor-critic policy with the networks of Stream AC (Elsayed, Vasan and Mahmood 2024, arXiv:2410.14606;
    ``stream_ac_continuous.py`` and ``sparse_init.py`` of stream-x).

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule.
    :param net_arch: Hidden layers; two of 128 by default.
    :param activation_fn: Activation function.
    :param sparsity: Share of each unit's incoming weights that start at 0; the others are uniform in ``+-1/sqrt(fan_in)``.
        None for SB3's own initialisation.
    :param layer_norm: Whether to normalise each hidden layer before its activation, without parameters.
    :param state_dependent_std: Whether the standard deviation of continuous actions comes from a network (through a
        softplus) instead of a parameter.
    :param optimizer_class: The optimiser of actor and critic.
    :param optimizer_kwargs: Its arguments except the learning rate; ``kappa=3`` for ObGD by default, the actor's.
    :param kwargs: The other arguments of SB3's ActorCriticPolicy.
    :raises ValueError: for a sparsity out of range, and for ``state_dependent_std`` with gSDE.
    """

    # Added to the standard deviation that its network gives.
    std_min: ClassVar[float] = 1e-5
    # The NumPy backend computes what this class does (``fast/numpy_actor.py``).
    acts_in_numpy: ClassVar[bool] = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.LeakyReLU,
        sparsity: float | None = 0.9,
        layer_norm: bool = True,
        state_dependent_std: bool = True,
        optimizer_class: type[th.optim.Optimizer] = ObGD,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if sparsity is not None and not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity!r}: must be at least 0 and below 1, or None")
        if state_dependent_std and kwargs.get("use_sde"):
            raise ValueError("state_dependent_std=True and use_sde=True: gSDE has its own standard deviation, choose one")
        self.sparsity = sparsity
        self.layer_norm = layer_norm
        self.state_dependent_std = state_dependent_std
        if isinstance(observation_space, spaces.Dict):
            kwargs.setdefault("features_extractor_class", CombinedExtractor)
        if optimizer_kwargs is None and optimizer_class is ObGD:
            optimizer_kwargs = {"kappa": 3.0}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[128, 128] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        if self.layer_norm:
            self.mlp_extractor.policy_net = _with_layer_norm(self.mlp_extractor.policy_net)
            self.mlp_extractor.value_net = _with_layer_norm(self.mlp_extractor.value_net)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.std_net = None
        if self.state_dependent_std and isinstance(self.action_dist, DiagGaussianDistribution):
            del self.log_std
            self.std_net = nn.Linear(self.mlp_extractor.latent_dim_pi, get_action_dim(self.action_space))
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        if self.sparsity is not None:
            self.apply(self._sparse_init)

    def _sparse_init(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Linear):
            return
        with th.no_grad():
            nn.init.uniform_(module.weight, -1.0 / math.sqrt(module.in_features), 1.0 / math.sqrt(module.in_features))
            nn.init.zeros_(module.bias)
            # With few inputs, stream-x's rounding zeroes all weights; keep one.
            n_zeros = min(math.ceil(self.sparsity * module.in_features), module.in_features - 1)  # type: ignore[operator]
            for row in module.weight:
                row[th.randperm(module.in_features)[:n_zeros]] = 0.0

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        if self.std_net is None:
            return super()._get_action_dist_from_latent(latent_pi)
        std = F.softplus(self.std_net(latent_pi)) + self.std_min
        return self.action_dist.proba_distribution(self.action_net(latent_pi), std.log())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"sparsity": self.sparsity, "layer_norm": self.layer_norm, "state_dependent_std": self.state_dependent_std}
        return super()._get_constructor_parameters() | own


def _with_layer_norm(net: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for module in net:
        layers.append(module)
        if isinstance(module, nn.Linear):
            layers.append(nn.LayerNorm(module.out_features, elementwise_affine=False))
    return nn.Sequential(*layers)
