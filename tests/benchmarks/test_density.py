"""The density constraint of references/density.py."""

from pathlib import Path

import pytest
import torch as th

import sb3_pg_extras
from benchmarks.references import density
from sb3_pg_extras.offline.losses import vae_loss


def test_the_cost_is_the_vaes_loss_of_each_action():
    generator = th.Generator().manual_seed(0)
    reconstruction, actions, mean, log_std = (th.randn((5, n), generator=generator) for n in (2, 2, 3, 3))
    cost = density.negative_elbo(reconstruction, actions, mean, log_std, 0.5)
    for row, of_one in enumerate(cost):
        one = slice(row, row + 1)
        reconstruction_loss, kl_loss = vae_loss(reconstruction[one], actions[one], mean[one], log_std[one])
        assert of_one.item() == pytest.approx((reconstruction_loss + 0.5 * kl_loss).item(), rel=1e-6)


def test_a_violated_constraint_pulls_the_actor_to_the_behavior():
    model = density.DensityBEAR("MlpPolicy", "Pendulum-v1", seed=0, device="cpu")
    model.learn(20, log_interval=None)
    batch = model.replay_buffer.sample(256, None, model.generator)
    step = model._kind_of_step()._replace(in_warmup=True)
    loss, cost, threshold = model._actor_loss(batch, step, {})
    assert cost > threshold
    assert loss.item() == pytest.approx((model.log_alpha.exp() * (cost - threshold)).item(), rel=1e-5)
    (gradient,) = th.autograd.grad(cost, [model.actor.mu.weight], retain_graph=True)
    (of_loss,) = th.autograd.grad(loss, [model.actor.mu.weight])
    th.testing.assert_close(of_loss, gradient * model.log_alpha.exp().detach())
    assert of_loss.abs().max() > 0


def test_run_gives_what_the_runner_writes():
    file = str(Path(sb3_pg_extras.__file__).parent / "datasets" / "bundled" / "pendulum-mixed-v0.npz")
    policy, figures = density.run(0, "Pendulum-v1", file, every=10, n_timesteps=20, batch_size=32)
    assert policy is None and figures["n_timesteps"] == 20 and set(figures["evaluations"]) == {0, 10, 20}
    assert len(figures["train/cost"]) == len(figures["train/cost_threshold"]) == 3
