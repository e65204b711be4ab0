"""For speed: the frozen behaviour VAE's samples at the states of the dataset, drawn once instead of in every step."""

import torch as th
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from sb3_pg_extras.offline.behavior_vae import BehaviorVAE
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer
from sb3_pg_extras.offline.sharded_buffer import ShardedReplayBuffer

# Bytes of samples to keep, samples per state at most, and states whose samples are drawn at a time.
MAX_BYTES = 1 << 26
MAX_SAMPLES = 16
STATES_AT_ONCE = 256


class BehaviorSamples:
    """
    Pre-tanh actions of a VAE at each of a dataset's N states.

    :param vae: The VAE, which does not learn any more.
    :param buffer: The dataset, for which :meth:`has_room` is true.
    :param env: Normalises observations, if given.
    :param seed: Seed of the draws.
    :param verbose: 0 for no progress bar.
    """

    def __init__(
        self, vae: BehaviorVAE, buffer: OfflineReplayBuffer, env: VecNormalize | None, seed: int, verbose: int = 0
    ) -> None:
        self._version = _version(vae)
        n_rows, n_samples = buffer.size(), self.room(buffer)
        generator = th.Generator(vae.device).manual_seed(seed)
        # Allocated at once: many small results between temporary tensors would fragment the memory.
        self.samples = th.empty((n_rows, n_samples, buffer.action_dim), device=vae.device)
        parts = th.arange(n_rows, device=vae.device).split(STATES_AT_ONCE)
        was_training = vae.training
        vae.set_training_mode(False)
        with th.no_grad():
            for rows in tqdm(parts, "Drawing the behaviour's actions", delay=2, disable=verbose == 0):
                noise = th.randn((len(rows), n_samples, vae.latent_dim), generator=generator, device=vae.device)
                self.samples[rows] = vae.raw_actions(buffer.get(rows, env).observations, noise)
        vae.set_training_mode(was_training)

    @staticmethod
    def room(buffer: OfflineReplayBuffer) -> int:
        """:return: Samples per state for which there is room."""
        return min(MAX_BYTES // (buffer.size() * 4 * buffer.action_dim), MAX_SAMPLES)

    @classmethod
    def has_room(cls, buffer: OfflineReplayBuffer, n: int) -> bool:
        """:return: Whether there is room for ``n`` samples per state; the states of a sharded dataset are not numbered."""
        return not isinstance(buffer, ShardedReplayBuffer) and cls.room(buffer) >= n

    def are_of(self, vae: BehaviorVAE) -> bool:
        """:return: Whether the VAE's parameters are those that drew the samples."""
        return self._version == _version(vae)

    def take(self, rows: th.Tensor, n: int, generator: th.Generator) -> th.Tensor:
        """
        :param rows: Rows of the dataset, shape (B,).
        :param n: Samples per row.
        :param generator: Source of the choice.
        :return: Different samples of each row, shape (B, n, A).
        """
        # Neighbours from a random one on.
        n_samples, device = self.samples.shape[1], self.samples.device
        start = th.randint(n_samples, (len(rows), 1), generator=generator, device=device)
        return self.samples[rows.unsqueeze(1), (start + th.arange(n, device=device)) % n_samples]


def _version(vae: BehaviorVAE) -> int:
    return sum(parameter._version for parameter in vae.parameters())
