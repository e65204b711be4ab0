"""What makes BEAR's gradient step fast changes results only by rounding, or says what it changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from conftest import Operators, make_arrays
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BC, BEAR, load_dataset
from sb3_pg_extras.bear import behavior_samples
from sb3_pg_extras.bear.behavior_samples import BehaviorSamples
from sb3_pg_extras.fast import matmuls
from sb3_pg_extras.offline import offline_algorithm
from sb3_pg_extras.offline.losses import vae_loss
from sb3_pg_extras.offline.sharded_buffer import ShardedReplayBuffer
from sb3_pg_extras.offline.sources import DatasetEnv

SMALL = {"net_arch": [32, 32], "vae_net_arch": [32, 32]}
VAE_LOSS = "sb3_pg_extras.bear.bear.vae_loss"
DATASET = "bundled:pendulum-mixed-v0"


def pendulum(**kwargs) -> BEAR:
    warmup_steps = kwargs.pop("warmup_steps", 10)
    kwargs = {"batch_size": 64, "policy_kwargs": SMALL, "device": "cpu", "seed": 0} | kwargs
    model = BEAR("MlpPolicy", "Pendulum-v1", DATASET, **kwargs)
    model.warmup_steps = warmup_steps
    return model


def weights(model) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()] + [model.log_alpha.detach()])


def test_the_fused_optimiser_is_adam():
    """After 50 steps from the same seed, to 1e-5."""
    stock = weights(pendulum(policy_kwargs=SMALL | {"optimizer_kwargs": {}}).learn(50))
    fused, start = weights(pendulum().learn(50)), weights(pendulum())
    assert (stock - fused).abs().max() < 1e-5
    assert (stock - start).abs().max() > 1e-3


# An MLP has 3 linear layers, the actor 4 (two heads). Going back, each has a product for its weights, where they learn, and
# one for its inputs, where something before it learns.
PRODUCTS_VAE = (6 + 6 + 2 + 3) + 3  # encoder and decoder there and back; samples of the behaviour
PRODUCTS_CRITICS = (4 + 6) + (6 + 6 + 4)  # the target: actor and two critics; two critics there and back
PRODUCTS_ACTOR = (4 + 6) + (6 + 4 + 3)  # actor and two critics there; critics' inputs, actor's weights and inputs
PRODUCTS_JOINT = PRODUCTS_VAE + PRODUCTS_CRITICS + PRODUCTS_ACTOR
MAX_JOINT, MAX_FROZEN = 880, 720


def operators_per_step(**kwargs) -> list[str]:
    model = pendulum(warmup_steps=0, **kwargs).learn(3, log_interval=None)
    with Operators() as operators:
        for _ in range(5):
            model.train(1, 64)
    assert len(operators.names) % 5 == 0
    return operators.names[: len(operators.names) // 5]


def test_operators_per_gradient_step():
    """A speed check without a clock: a step with more products than these is slower."""
    joint, frozen = operators_per_step(), operators_per_step(behavior_steps=1)
    assert len(joint) <= MAX_JOINT
    assert len(frozen) <= MAX_FROZEN
    # Nothing waits for the device.
    assert not [name for name in joint + frozen if name.startswith("_local_scalar_dense")]
    # No unused gradient.
    assert products(joint) == PRODUCTS_JOINT
    assert products(frozen) == PRODUCTS_JOINT - PRODUCTS_VAE


def products(operators: list[str]) -> int:
    return sum(name.startswith(("addmm", "mm")) for name in operators)


# Matrix products.


def test_the_users_matmul_precision_comes_back(monkeypatch):
    seen = []
    original = vae_loss
    monkeypatch.setattr(VAE_LOSS, lambda *args: seen.append(th.get_float32_matmul_precision()) or original(*args))
    assert th.get_float32_matmul_precision() == "highest"
    pendulum().learn(1)  # too small to be faster
    assert seen.pop() == "highest"
    model = pendulum(policy_kwargs={"net_arch": [256, 256], "vae_net_arch": [32]}).learn(1)
    assert seen == ["medium" if matmuls.medium_is_accurate() else "highest"]
    assert th.get_float32_matmul_precision() == "highest"

    def fail(*_):
        raise RuntimeError("stop")

    monkeypatch.setattr(VAE_LOSS, fail)
    with pytest.raises(RuntimeError, match="stop"):
        model.learn(1, reset_num_timesteps=False)
    assert th.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("accurate", [True, False])
def test_onednn_multiplies_only_where_it_is_as_accurate(monkeypatch, accurate):
    monkeypatch.setattr(matmuls, "medium_is_accurate", lambda: accurate)
    with matmuls.fast_matmuls(th.device("cpu"), matmuls.LARGE):
        assert th.get_float32_matmul_precision() == ("medium" if accurate else "highest")
    with matmuls.fast_matmuls(th.device("cpu"), matmuls.LARGE - 1):
        assert th.get_float32_matmul_precision() == "highest"


def test_the_accuracy_of_a_product_is_measured(monkeypatch):
    original = th.Tensor.__matmul__
    matmuls.medium_is_accurate.cache_clear()
    monkeypatch.setattr(
        th.Tensor,
        "__matmul__",
        lambda a, b: original(a.bfloat16(), b.bfloat16()).float() if a.dtype == th.float32 else original(a, b),
    )
    assert not matmuls.medium_is_accurate()
    monkeypatch.undo()
    matmuls.medium_is_accurate.cache_clear()


# bfloat16: PyTorch emulates it where the processor lacks it, so that what it computes can be tested anywhere.


@pytest.fixture
def bf16(monkeypatch):
    monkeypatch.setattr(offline_algorithm, "has_bf16", lambda device: True)


@pytest.mark.usefixtures("bf16")
def test_bf16_keeps_weights_and_losses_in_single_precision(monkeypatch):
    seen = []
    original = vae_loss
    monkeypatch.setattr(VAE_LOSS, lambda *args: seen.append([a.dtype for a in args]) or original(*args))
    model = pendulum(precision="bf16").learn(3)
    assert {dtype for dtypes in seen for dtype in dtypes} == {th.float32}
    assert {parameter.dtype for parameter in model.policy.parameters()} == {th.float32}
    assert not th.is_autocast_enabled("cpu")
    assert model.predict(np.zeros(3, np.float32))[0].dtype == np.float32


@pytest.mark.usefixtures("bf16")
def test_bf16_gradients_point_where_those_of_fp32_do():
    gradients = {}
    for precision in ("fp32", "bf16"):
        model = pendulum(precision=precision, warmup_steps=0, batch_size=256).learn(1)
        gradients[precision] = {
            name: th.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
            for name, module in (("critic", model.critic), ("vae", model.behavior_vae))
        }
    for name, ours in gradients["bf16"].items():
        theirs = gradients["fp32"][name]
        assert th.cosine_similarity(ours, theirs, dim=0) > 0.999
        assert not th.equal(ours, theirs)


@pytest.mark.usefixtures("bf16")
def test_bf16_multiplies_by_the_weights_as_they_are_after_each_update():
    """autocast's cached copies would let the actor see old critics, and several steps in one call none of their updates."""
    changes = {}
    for precision in ("fp32", "bf16"):
        rates = dict.fromkeys(("learning_rate", "critic_learning_rate", "vae_learning_rate"), 1e-2)
        model = pendulum(precision=precision, warmup_steps=0, batch_size=256, n_target_samples=4, **rates)
        model._setup_learn(20)
        before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
        model.train(20, 256)
        changes[precision] = {n: (p.detach() - before[n]).flatten() for n, p in model.policy.named_parameters()}
    for name, change in changes["fp32"].items():
        assert th.cosine_similarity(change, changes["bf16"][name], dim=0) > 0.95, name


@pytest.mark.usefixtures("bf16")
def test_bf16_for_cloning():
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    bf16, fp32 = (BC("MlpPolicy", None, make_arrays(), precision=p, **kwargs).learn(20) for p in ("bf16", "fp32"))
    assert {parameter.dtype for parameter in bf16.policy.parameters()} == {th.float32}
    weights = [model.actor.latent_pi[0].weight for model in (bf16, fp32)]
    assert not th.equal(*weights)
    th.testing.assert_close(*weights, rtol=0.05, atol=0.01)


def test_bf16_is_refused_by_name_where_the_processor_lacks_it(monkeypatch):
    monkeypatch.setattr(offline_algorithm, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match='precision="bf16": this processor'):
        pendulum(precision="bf16")
    with pytest.raises(ValueError, match="precision='fp16'"):
        pendulum(precision="fp16")


def test_a_bf16_model_is_loaded_and_acts_where_the_processor_lacks_it(monkeypatch, tmp_path):
    monkeypatch.setattr(offline_algorithm, "has_bf16", lambda device: True)
    model = pendulum(precision="bf16")
    model.save(tmp_path / "model")
    monkeypatch.setattr(offline_algorithm, "has_bf16", lambda device: False)
    loaded = BEAR.load(tmp_path / "model", device="cpu")
    obs = np.zeros(3, np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    with pytest.raises(ValueError, match='precision="bf16": this processor'):
        loaded.learn(1)
    BEAR.load(tmp_path / "model", device="cpu", precision="fp32").learn(1)


# A frozen behaviour model.


def test_the_behaviour_model_stops_learning():
    model = pendulum(behavior_steps=5).learn(5)
    frozen = {name: value.clone() for name, value in model.behavior_vae.state_dict().items()}
    start = pendulum().behavior_vae.state_dict()
    assert any(not th.equal(frozen[name], start[name]) for name in frozen)
    model.learn(5, reset_num_timesteps=False)
    assert all(th.equal(frozen[name], value) for name, value in model.behavior_vae.state_dict().items())
    # Up to then it is the joint algorithm.
    joint = pendulum().learn(5)
    assert all(th.equal(frozen[name], value) for name, value in joint.behavior_vae.state_dict().items())


def test_kept_samples_are_the_behaviours(monkeypatch):
    """Each state's samples are those of the VAE at that state, and a batch draws distinct ones of its own rows."""
    monkeypatch.setattr(behavior_samples, "MAX_BYTES", 30_000 * 4 * 12)
    model = pendulum().learn(2)
    kept = BehaviorSamples(model.behavior_vae, model.replay_buffer, None, seed=0)
    samples = kept.samples.clone()
    assert samples.shape == (30_000, 12, 1)
    # Distinct samples: the VAE's are often equal, since its latents are clipped.
    kept.samples += th.arange(12.0).reshape(12, 1) * 100
    rows, generator = th.tensor([7, 20_000, 7, 123]), th.Generator().manual_seed(0)
    drawn = kept.take(rows, 4, generator)
    assert drawn.shape == (4, 4, 1)
    for row, actions in zip(rows.tolist(), drawn, strict=True):
        assert set(actions.flatten().tolist()) <= set(kept.samples[row].flatten().tolist())
        assert len(set(actions.flatten().tolist())) == 4
    # Over many draws each sample comes as often.
    counts = th.zeros(12)
    for _ in range(300):
        counts += (kept.samples[7].flatten()[:, None] == kept.take(rows, 4, generator)[0].flatten()).any(dim=1)
    assert counts.min() > 60
    # They follow the VAE's distribution at each state.
    rows = th.arange(0, 30_000, 100)
    with th.no_grad():
        fresh = model.behavior_vae.raw_actions(model.replay_buffer.get(rows).observations, th.randn(300, 12, 2))
    th.testing.assert_close(
        samples[rows].mean(dim=1), fresh.mean(dim=1), rtol=0, atol=5 * fresh.std(dim=1).max().item() / 12**0.5
    )
    assert samples[rows].std(dim=1).mean().item() == pytest.approx(fresh.std(dim=1).mean().item(), rel=0.1)


def test_without_room_samples_are_drawn_as_before(monkeypatch):
    monkeypatch.setattr(behavior_samples, "MAX_BYTES", 30_000 * 4 * 3)
    model = pendulum(behavior_steps=1).learn(3)
    assert model._behavior_samples is None
    monkeypatch.setattr(behavior_samples, "MAX_BYTES", 30_000 * 4 * 4)
    assert pendulum(behavior_steps=1).learn(3)._behavior_samples.samples.shape[1] == 4


def test_a_frozen_run_goes_on_after_loading_as_if_it_had_never_stopped(tmp_path):
    whole = pendulum(behavior_steps=3).learn(10)
    part = pendulum(behavior_steps=3).learn(6)
    part.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", device="cpu")
    loaded.learn(4, reset_num_timesteps=False)
    assert th.equal(weights(whole), weights(loaded))


def test_other_parameters_get_samples_of_their_own():
    model = pendulum(behavior_steps=1).learn(2)
    first = model._behavior_samples
    model.learn(1, reset_num_timesteps=False)
    assert model._behavior_samples is first
    model.set_parameters(pendulum(behavior_steps=1, seed=1).learn(2).get_parameters())
    model.learn(1, reset_num_timesteps=False)
    assert not th.equal(first.samples, model._behavior_samples.samples)


def test_another_dataset_gets_samples_of_its_own():
    model = pendulum(behavior_steps=1).learn(2)
    first = model._behavior_samples
    dataset = load_dataset(DATASET)
    arrays = {
        name: getattr(dataset, name)[::-1].copy()
        for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    model.set_dataset(arrays | {"action_space": dataset.action_space})
    model.learn(1, reset_num_timesteps=False)
    second = model._behavior_samples
    assert second is not first
    assert th.allclose(first.samples.mean(dim=1), second.samples.mean(dim=1).flip(0), atol=0.5)


def test_wrong_behaviour_steps_are_named():
    with pytest.raises(ValueError, match="behavior_steps=0"):
        pendulum(behavior_steps=0)


def test_room_for_samples_by_hand(monkeypatch):
    """A sample takes 4 bytes for each action dimension of each state; there are never more than 16 of a state."""
    buffer = SimpleNamespace(size=lambda: 100, action_dim=3)
    monkeypatch.setattr(behavior_samples, "MAX_BYTES", 100 * 3 * 4 * 5 + 1)
    assert BehaviorSamples.room(buffer) == 5
    assert BehaviorSamples.has_room(buffer, 5) and not BehaviorSamples.has_room(buffer, 6)
    monkeypatch.undo()
    assert BehaviorSamples.room(buffer) == 16
    # The rows of a sharded dataset are not numbered.
    assert not BehaviorSamples.has_room(object.__new__(ShardedReplayBuffer), 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_kept_samples_are_drawn_from_their_seed_at_observations_as_the_networks_see_them(seed):
    data = load_dataset(make_arrays())
    env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(data)]), norm_reward=False)
    kwargs = {"policy_kwargs": SMALL, "batch_size": 16, "seed": seed, "device": "cpu"}
    model = BEAR("MlpPolicy", env, data, behavior_steps=1, warmup_fraction=0, **kwargs).learn(3)
    vae, generator = model.behavior_vae, th.Generator().manual_seed(model._seed_of_dataset_draws)
    observations = th.as_tensor(env.normalize_obs(data.observations))
    noise = th.randn((40, 16, vae.latent_dim), generator=generator)
    with th.no_grad():
        th.testing.assert_close(model._behavior_samples.samples, vae.raw_actions(observations, noise), atol=1e-5, rtol=0)
