"""BEAR's gradient step written the plain way, as in SB3's own algorithms: what ``bear.py`` must equal, only faster."""

from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import polyak_update

from sb3_pg_extras import BEAR
from sb3_pg_extras.bear import losses
from sb3_pg_extras.datasets.readers.replay_buffer import to_replay_buffer


class PlainBEAR(BEAR):
    """Stock replay buffer, stock Adam, autograd for the multiplier too, default matrix products, ``.item()`` for the log."""

    def __init__(
        self, policy: Any, env: Any, dataset: Any, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(policy, env, dataset, policy_kwargs={"optimizer_kwargs": {}, **(policy_kwargs or {})}, **kwargs)
        assert self.replay_buffer is not None
        rows = self.replay_buffer.whole_dataset()
        self.stock_buffer = ReplayBuffer(len(rows), self.observation_space, self.action_space, self.device)
        to_replay_buffer(rows, self.stock_buffer)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        for _ in range(gradient_steps):
            indices = self.replay_buffer.sample_indices(batch_size, self.generator)
            replay_data = self.stock_buffer._get_samples(indices.cpu().numpy(), env=self._vec_normalize_env)
            self._train_behavior_vae(replay_data)
            self._train_critics(replay_data, None)
            self._train_alpha(self._train_actor(replay_data, indices))
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            self._n_updates += 1

    def _train_alpha(self, divergence: th.Tensor) -> None:
        threshold = self.constraint_threshold
        assert self.alpha_optimizer is not None and threshold is not None
        alpha_loss = losses.alpha_loss(self.log_alpha, divergence, threshold)
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        with th.no_grad():
            self.log_alpha.clamp_(-5.0, self.log_alpha_max)
        self._record(alpha_loss=alpha_loss, alpha=self.log_alpha.exp().mean())

    def _record(self, **values: th.Tensor) -> None:
        for name, value in values.items():
            total, count = self._stats.get(name, (th.zeros(()), 0))
            self._stats[name] = (total + value.item(), count + 1)
