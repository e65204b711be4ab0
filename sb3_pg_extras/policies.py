"""Networks beyond SB3's own: BEAR's behaviour VAE and critics, and stream-x's actor-critic."""

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import nn
from torch.nn import functional as F

from sb3_pg_extras.optimizers import ObGD
from sb3_pg_extras.records import CLIP, EPSILON, is_vector_space

# Bounds of the latent's log standard deviation, and of the latents that samples are decoded from (VAE in BEAR's algos.py).
LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX = -4.0, 15.0
LATENT_CLIP = 0.5
# Added to the standard deviation that StreamPolicy's network gives.
STD_MIN = 1e-5


# The networks' outputs are made single precision at once, so that bf16 (BEAR's ``precision``) stays inside of them.


class NormalizingPolicy(BasePolicy):
    """
    A policy that normalises the vectors that ``predict`` is given as the dataset was normalised it learned from. What
    training hands to its networks is normalised already.
    """

    observation_mean: th.Tensor
    observation_std: th.Tensor
    observation_clip: th.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_vector_space(self.observation_space):
            shape = self.observation_space.shape or ()
            # Saved with the networks; until they are set they change nothing.
            self.register_buffer("observation_mean", th.zeros(shape, device=self.device))
            self.register_buffer("observation_std", th.ones(shape, device=self.device))
            self.register_buffer("observation_clip", th.tensor(float("inf"), device=self.device))

    def set_observation_statistics(self, rms: RunningMeanStd) -> None:
        """
        Normalise observations from now on.

        :param rms: Mean and variance, shape (observation dimensions,).
        """
        self.observation_mean.copy_(th.as_tensor(rms.mean))
        self.observation_std.copy_(th.as_tensor(np.sqrt(rms.var + EPSILON)))
        self.observation_clip.fill_(CLIP)

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """As in SB3's ``BaseModel``, normalised."""
        tensor, is_vectorized = super().obs_to_tensor(observation)
        if isinstance(tensor, th.Tensor) and is_vector_space(self.observation_space):
            tensor = (tensor.float() - self.observation_mean) / self.observation_std
            tensor = tensor.clamp(-self.observation_clip, self.observation_clip)
        return tensor, is_vectorized


class BehaviorVAE(NormalizingPolicy):
    """
    Conditional VAE of the dataset's actions given the observation (BCQ, Fujimoto et al. 2019; ``VAE`` in BEAR's
    ``algos.py``). It is an SB3 policy too: acting with it is behaviour cloning.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param net_arch: Hidden layers of the encoder and of the decoder.
    :param features_extractor: Network that extracts features from observations, its own.
    :param features_dim: Number of features.
    :param latent_dim: Latent dimensions, L.
    :param activation_fn: Activation function.
    :param normalize_images: Whether to divide images by 255.
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        latent_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        action_dim = get_action_dim(action_space)
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.latent_dim = latent_dim
        self.activation_fn = activation_fn
        self.encoder = nn.Sequential(*create_mlp(features_dim + action_dim, 2 * latent_dim, net_arch, activation_fn))
        self.decoder = nn.Sequential(*create_mlp(features_dim + latent_dim, action_dim, net_arch, activation_fn))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("net_arch", "features_extractor", "features_dim", "latent_dim", "activation_fn")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def forward(self, obs: PyTorchObs, actions: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Encode actions and decode them again.

        :param obs: Observations of B states.
        :param actions: Actions in [-1, 1], shape (B, A).
        :param noise: Standard normal noise of the latent, shape (B, L).
        :return: Reconstructed actions in [-1, 1], shape (B, A); mean and log standard deviation of the latent, (B, L).
        """
        features = self.extract_features(obs, self.features_extractor)
        mean, log_std = self.encoder(th.cat([features, actions], dim=1)).float().chunk(2, dim=1)
        log_std = log_std.clamp(LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX)
        latents = mean + log_std.exp() * noise
        return th.tanh(self.decoder(th.cat([features, latents], dim=1)).float()), mean, log_std

    def raw_actions(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        Sample the behaviour: decode latents that are clipped to +-0.5, where the decoder has seen most data.

        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, L).
        :return: Actions before the tanh, shape (B, n, A).
        """
        features = self.extract_features(obs, self.features_extractor)
        features = features.unsqueeze(1).expand(-1, noise.shape[1], -1)
        call = nn.Module.__call__ if th.is_grad_enabled() else _call_in_place
        return call(self.decoder, th.cat([features, noise.clamp(-LATENT_CLIP, LATENT_CLIP)], dim=2)).float()

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        batch_size = _batch_size(observation)
        shape = (batch_size, 1, self.latent_dim)
        noise = th.zeros(shape, device=self.device) if deterministic else th.randn(shape, device=self.device)
        return th.tanh(self.raw_actions(observation, noise)).squeeze(1)


class BEARPolicy(NormalizingPolicy, SACPolicy):
    """
    SB3's SAC actor and critics (so that weights move freely between BEAR and SAC), and a behaviour VAE.

    It acts by drawing ``n_action_samples`` actions from the actor and taking the one that the first critic values most.
    ``deterministic=True`` draws them with noise that is fixed when the policy is made and saved with it.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule of all optimisers (BEAR sets each one's own afterwards).
    :param vae_net_arch: Hidden layers of the VAE's encoder and decoder, ``[750, 750]`` by default.
    :param vae_latent_dim: Latent dimensions of the VAE, twice the action dimensions by default.
    :param n_action_samples: Candidate actions when acting.
    :param optimizer_class: The optimiser of all networks.
    :param optimizer_kwargs: Its arguments but for the learning rate; ``fused=True`` for Adam by default, which is faster.
    :param sac_kwargs: As in SB3's ``SACPolicy``: ``net_arch``, ``activation_fn``, ``n_critics``,
        ``features_extractor_class``, ...
    :raises ValueError: for ``use_sde``: gSDE explores an environment, which offline learning never does.
    """

    behavior_vae: BehaviorVAE
    candidate_noise: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        vae_net_arch: list[int] | None = None,
        vae_latent_dim: int | None = None,
        n_action_samples: int = 100,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **sac_kwargs: Any,
    ) -> None:
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"fused": True}
        sac_kwargs |= {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        if sac_kwargs.get("use_sde"):
            raise ValueError("policy_kwargs use_sde=True: gSDE explores an environment, which BEAR never does. Leave it out")
        super().__init__(observation_space, action_space, lr_schedule, **sac_kwargs)
        action_dim = get_action_dim(action_space)
        self.n_action_samples = n_action_samples
        self.vae_kwargs = {
            "observation_space": observation_space,
            "action_space": action_space,
            "net_arch": [750, 750] if vae_net_arch is None else vae_net_arch,
            "latent_dim": 2 * action_dim if vae_latent_dim is None else vae_latent_dim,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
        }
        self.behavior_vae = BehaviorVAE(**self._update_features_extractor(self.vae_kwargs)).to(self.device)
        self.behavior_vae.optimizer = self.optimizer_class(
            self.behavior_vae.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
        self.register_buffer("candidate_noise", th.randn(1, n_action_samples, action_dim, device=self.device))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        # The actor's gSDE settings, which this policy refuses.
        for name in ("use_sde", "log_std_init", "use_expln", "clip_mean"):
            data.pop(name)
        data.update(
            vae_net_arch=self.vae_kwargs["net_arch"],
            vae_latent_dim=self.vae_kwargs["latent_dim"],
            n_action_samples=self.n_action_samples,
            share_features_extractor=self.share_features_extractor,
        )
        return data

    def raw_actions(self, obs: PyTorchObs, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample the actor: ``mean(s) + std(s) * noise``.

        :param obs: Observations of B states.
        :param noise: Standard normal noise, shape (B, n, A), or (1, n, A) for the same in all states.
        :return: Actions before the tanh, shape (B, n, A); mean and log standard deviation of the Gaussian, (B, A).
        """
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        mean, log_std = mean.float(), log_std.float()
        return mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise, mean, log_std

    def q_values(self, critic: ContinuousCritic, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        All critics at several actions per state; the features of a state are computed once.

        :param critic: ``self.critic`` or ``self.critic_target``.
        :param obs: Observations of B states.
        :param actions: Actions in [-1, 1], shape (B, n, A).
        :return: shape (C, B, n).
        """
        inputs = self._critic_inputs(critic, obs, actions)
        call = nn.Module.__call__ if th.is_grad_enabled() else _call_in_place
        return th.stack([call(q_network, inputs).squeeze(2) for q_network in critic.q_networks]).float()

    def _critic_inputs(self, critic: ContinuousCritic, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        # As in ContinuousCritic.forward: shared features learn from the actor's loss alone.
        with th.set_grad_enabled(th.is_grad_enabled() and not critic.share_features_extractor):
            features = critic.extract_features(obs, critic.features_extractor)
        return th.cat([features.unsqueeze(1).expand(-1, actions.shape[1], -1), actions], dim=2)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        noise = self.candidate_noise
        if not deterministic:
            noise = th.randn(_batch_size(observation), *noise.shape[1:], device=self.device)
        actions = th.tanh(self.raw_actions(observation, noise)[0])
        values = self.critic.q_networks[0](self._critic_inputs(self.critic, observation, actions))
        return actions.take_along_dim(values.argmax(dim=1, keepdim=True), dim=1).squeeze(1)

    def set_observation_statistics(self, rms: RunningMeanStd) -> None:
        """
        Normalise observations from now on.

        :param rms: Mean and variance, shape (observation dimensions,).
        """
        super().set_observation_statistics(rms)
        self.behavior_vae.set_observation_statistics(rms)

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the networks in training or evaluation mode (batch normalisation, dropout).

        :param mode: True for training.
        """
        super().set_training_mode(mode)
        # Called by SB3 before the VAE is made, too.
        if hasattr(self, "behavior_vae"):
            self.behavior_vae.set_training_mode(mode)


class CnnPolicy(BEARPolicy):
    """:class:`BEARPolicy` for images, with SB3's NatureCNN."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(BEARPolicy):
    """:class:`BEARPolicy` for Dict observations, with SB3's CombinedExtractor."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


def _call_in_place(network: nn.Module, x: th.Tensor) -> th.Tensor:
    """Without gradients, what a layer gave can be overwritten by the ReLU behind it: half the memory to go through."""
    if not isinstance(network, nn.Sequential):
        return network(x)
    for layer in network:
        # Whatever the ReLU gets is a layer's own output.
        x = x.relu_() if type(layer) is nn.ReLU and layer is not network[0] else layer(x)
    return x


MlpPolicy = BEARPolicy


def _batch_size(obs: PyTorchObs) -> int:
    return len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)


class StreamPolicy(ActorCriticPolicy):
    """
    SB3's actor-critic policy in the form that learns from single steps: the networks of Stream AC (Elsayed, Vasan and
    Mahmood 2024, arXiv:2410.14606; ``stream_ac_continuous.py`` and ``sparse_init.py`` of stream-x).

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule.
    :param net_arch: Hidden layers; two of 128 by default.
    :param activation_fn: Activation function.
    :param sparsity: Share of each unit's incoming weights that start at 0, the others being uniform in
        ``+-1/sqrt(fan_in)``; None for SB3's own initialisation.
    :param layer_norm: Whether to normalise each hidden layer before its activation, without parameters.
    :param state_dependent_std: Whether a network gives the standard deviation of continuous actions (by a softplus), instead
        of a parameter.
    :param optimizer_class: The optimiser of actor and critic.
    :param optimizer_kwargs: Its arguments but for the learning rate; ``kappa=3`` for ObGD by default, the actor's.
    :param kwargs: The other arguments of SB3's ActorCriticPolicy.
    :raises ValueError: for a sparsity out of range, and for ``state_dependent_std`` with gSDE.
    """

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
            raise ValueError(
                "state_dependent_std=True and use_sde=True: gSDE has a standard deviation of its own, choose one"
            )
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
            # With few inputs stream-x's rounding leaves none; keep one.
            n_zeros = min(math.ceil(self.sparsity * module.in_features), module.in_features - 1)  # type: ignore[operator]
            for row in module.weight:
                row[th.randperm(module.in_features)[:n_zeros]] = 0.0

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        if self.std_net is None:
            return super()._get_action_dist_from_latent(latent_pi)
        std = F.softplus(self.std_net(latent_pi)) + STD_MIN
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


def environment_actions(policy: BasePolicy, actions: np.ndarray) -> np.ndarray:
    """
    What SB3's on-policy algorithms hand to the environment.

    :param policy: The policy that drew the actions.
    :param actions: shape (n_envs, *action_space.shape).
    :return: The same, scaled from [-1, 1] if the policy squashes its output, clipped to the action space if not.
    """
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    # What np.clip does, without its Python wrappers: they cost more than all else here.
    return np.minimum(np.maximum(actions, space.low), space.high)
