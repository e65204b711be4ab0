"""
BEAR with a density constraint instead of the MMD (after SPOT, Wu et al. 2022, arXiv:2202.06239): a candidate that the
package does not have (``suites/locomotion_narrow.yml``).

The policy's actions shall on average be at least as likely as 90% of the data's, by the behaviour VAE's negative ELBO c:
``E c(s, a ~ pi) <= the 0.1 quantile of c over the batch's own actions``. The multiplier with its bound and the warm-up
are BEAR's; the threshold has no slack.
"""

import time
from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import BEAR, load_dataset
from sb3_pg_extras.bear import losses
from sb3_pg_extras.offline.losses import vae_loss
from sb3_pg_extras.offline.policies import q_values

QUANTILE = 0.1


def negative_elbo(
    reconstruction: th.Tensor, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor, kl_weight: float
) -> th.Tensor:
    """The VAE's loss of each action, (B,), from (B, A) and (B, L)."""
    reconstruction_loss, kl_loss = th.vmap(vae_loss)(reconstruction, actions, mean, log_std)
    return reconstruction_loss + kl_weight * kl_loss


class DensityBEAR(BEAR):
    """BEAR with the density constraint."""

    def _cost(self, batch: Any, actions: th.Tensor) -> th.Tensor:
        noise = self._noise(len(actions), self.behavior_vae.latent_dim)
        reconstruction, mean, log_std = self.behavior_vae(batch.observations, actions, noise)
        return negative_elbo(reconstruction, actions, mean, log_std, self.vae_kl_weight)

    def _actor_loss(self, batch: Any, step: Any, logged: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        raw_actions, _, log_std = self.policy.raw_actions(batch.observations, self._action_noise(batch, 1))
        policy_actions = th.tanh(raw_actions)
        cost = self._cost(batch, policy_actions.squeeze(1)).mean()
        with th.no_grad():
            threshold = self._cost(batch, batch.actions).quantile(QUANTILE)
        actor_loss = losses.support_penalty(self.log_alpha.exp(), cost, threshold).sum()
        if not step.in_warmup:
            values = q_values(self.critic, batch.observations, policy_actions).squeeze(2)
            actor_loss = actor_loss - losses.reduce_q_values(values, self.q_reduction).mean()
        logged |= {"actor_loss": actor_loss, "std": log_std.exp().mean(), "cost": cost, "cost_threshold": threshold}
        return actor_loss, cost, threshold


def run(seed: int, env_id: str, dataset: str, every: int, n_timesteps: int, **settings: Any) -> tuple[None, dict[str, Any]]:
    """:return: No policy, and the evaluations along the training, for ``benchmarks/run.py``."""
    from benchmarks.run import LastValues, Watch, greedy_returns

    data = load_dataset(dataset)
    model = DensityBEAR("MlpPolicy", env_id, data, seed=seed, device="cpu", **settings)
    model.set_logger(LastValues())
    env = make_vec_env(env_id, 10)
    names = ("train/alpha", "train/cost", "train/cost_threshold", "train/q_value")
    watch = Watch(lambda: greedy_returns(model, env, 10), every, trace=names)
    start = time.process_time()
    model.learn(n_timesteps, callback=watch)
    evaluations = {n: round(float(returns.mean()), 1) for n, returns in watch.evaluations.items()}
    seconds = time.process_time() - start - watch.seconds
    return None, {"n_timesteps": n_timesteps, "seconds": seconds, "evaluations": evaluations, **watch.trace}
