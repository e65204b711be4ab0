"""What makes BEAR's gradient step fast changes nothing but the last digits, or says what it changes."""

import numpy as np
import pytest
import torch as th
from conftest import TINY, Operators, make_arrays
from plain_bear import PlainBEAR

from sb3_pg_extras import BEAR, load_dataset
from sb3_pg_extras.bear import bear as bear_module

SMALL = {"net_arch": [32, 32], "vae_net_arch": [32, 32]}
DATASET = "bundled:pendulum-mixed-v0"


def pendulum(algorithm=BEAR, **kwargs):
    kwargs = {"warmup_steps": 10, "batch_size": 64, "policy_kwargs": SMALL, "device": "cpu", "seed": 0} | kwargs
    return algorithm("MlpPolicy", "Pendulum-v1", DATASET, **kwargs)


def weights(model) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()] + [model.log_alpha.detach()])


@pytest.mark.parametrize(
    "kwargs", [{}, {"mmd_estimator": "unbiased", "mmd_threshold": 0.1}, {"divergence": "kl", "variance_penalty": 0.1}]
)
def test_equals_the_plain_version(kwargs):
    """After 50 steps from the same seed, to 1e-5."""
    plain = weights(pendulum(PlainBEAR, **kwargs).learn(50))
    fast = weights(pendulum(**kwargs).learn(50))
    start = weights(pendulum(**kwargs))
    assert (plain - fast).abs().max() < 1e-5
    assert (plain - start).abs().max() > 1e-3


# An MLP has 3 linear layers, the actor 4 (two heads). Going back, each has a product for its weights, where they learn, and
# one for its inputs, where something before it learns.
PRODUCTS_VAE = (6 + 6 + 2 + 3) + 3  # encoder and decoder there and back; samples of the behaviour
PRODUCTS_CRITICS = (4 + 6) + (6 + 6 + 4)  # the target: actor and two critics; two critics there and back
PRODUCTS_ACTOR = (4 + 6) + (6 + 4 + 3)  # actor and two critics there; critics' inputs, actor's weights and inputs
PRODUCTS_JOINT = PRODUCTS_VAE + PRODUCTS_CRITICS + PRODUCTS_ACTOR
MAX_JOINT, MAX_FROZEN = 700, 540


def operators_per_step(algorithm=BEAR, **kwargs) -> list[str]:
    model = pendulum(algorithm, warmup_steps=0, **kwargs).learn(3, log_interval=None)
    with Operators() as operators:
        model.learn(5, log_interval=None, reset_num_timesteps=False)
    assert len(operators.names) % 5 == 0
    return operators.names[: len(operators.names) // 5]


def test_operators_per_gradient_step():
    """A gate that needs no clock. Whoever needs more than this has made the step slower."""
    joint, plain, frozen = operators_per_step(), operators_per_step(PlainBEAR), operators_per_step(behavior_steps=1)
    assert len(joint) <= MAX_JOINT
    assert len(frozen) <= MAX_FROZEN
    assert len(joint) < 0.75 * len(plain)
    # Nothing waits for the device, and a batch is one gather.
    assert not [name for name in joint + frozen if name.startswith("_local_scalar_dense")]
    assert sum(name.startswith("index_select") for name in joint) == 1
    assert products(joint) == PRODUCTS_JOINT
    assert products(frozen) == PRODUCTS_JOINT - PRODUCTS_VAE


def products(operators: list[str]) -> int:
    return sum(name.startswith(("addmm", "mm")) for name in operators)


def test_no_gradients_that_nobody_uses():
    model = pendulum(warmup_steps=0).learn(1)
    before = [parameter.grad.clone() for parameter in model.critic.parameters()]
    rows = th.arange(64)
    model._train_actor(model.replay_buffer.get(rows), rows)
    assert all(th.equal(a, b.grad) for a, b in zip(before, model.critic.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.critic_target.parameters())


def test_the_multipliers_gradient_is_autograds():
    from sb3_pg_extras.bear import losses

    model = pendulum()
    model.log_alpha.data.fill_(0.7)
    model._train_alpha(th.tensor(0.3))
    log_alpha = th.tensor([0.7], requires_grad=True)
    losses.alpha_loss(log_alpha, th.tensor(0.3), model.constraint_threshold).backward()
    th.testing.assert_close(model.log_alpha.grad, log_alpha.grad)
    assert log_alpha.grad.item() == pytest.approx(-np.exp(0.7) * (0.3 - 0.05), rel=1e-5)


# Matrix products.


def test_the_users_matmul_precision_comes_back(monkeypatch):
    seen = []
    original = BEAR._train_critics
    monkeypatch.setattr(
        BEAR, "_train_critics", lambda *args: seen.append(th.get_float32_matmul_precision()) or original(*args)
    )
    assert th.get_float32_matmul_precision() == "highest"
    pendulum().learn(1)  # too small to gain
    assert seen.pop() == "highest"
    model = pendulum(policy_kwargs={"net_arch": [256, 256], "vae_net_arch": [32]}).learn(1)
    assert seen == ["medium"]
    assert th.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr("sb3_pg_extras.fast.matmuls._medium_is_accurate", lambda: False)
    model.learn(1, reset_num_timesteps=False)
    assert seen[1] == "highest"
    monkeypatch.setattr("sb3_pg_extras.fast.matmuls._medium_is_accurate", lambda: True)

    def fail(*_):
        raise RuntimeError("stop")

    monkeypatch.setattr(BEAR, "_train_critics", fail)
    with pytest.raises(RuntimeError, match="stop"):
        model.learn(1, reset_num_timesteps=False)
    assert th.get_float32_matmul_precision() == "highest"


def test_the_accuracy_of_a_product_is_measured(monkeypatch):
    from sb3_pg_extras.fast import matmuls

    original = th.Tensor.__matmul__
    matmuls._medium_is_accurate.cache_clear()
    monkeypatch.setattr(
        th.Tensor,
        "__matmul__",
        lambda a, b: original(a.bfloat16(), b.bfloat16()).float() if a.dtype == th.float32 else original(a, b),
    )
    assert not matmuls._medium_is_accurate()
    monkeypatch.undo()
    matmuls._medium_is_accurate.cache_clear()


# bfloat16.


def test_bf16_keeps_weights_and_losses_in_single_precision(monkeypatch):
    seen = []
    original = bear_module.losses.vae_loss
    monkeypatch.setattr(
        bear_module.losses, "vae_loss", lambda *args: seen.append([a.dtype for a in args]) or original(*args)
    )
    model = pendulum(precision="bf16").learn(3)
    assert {dtype for dtypes in seen for dtype in dtypes} == {th.float32}
    assert {parameter.dtype for parameter in model.policy.parameters()} == {th.float32}
    assert not th.is_autocast_enabled("cpu")
    assert model.predict(np.zeros(3, np.float32))[0].dtype == np.float32


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


def test_bf16_multiplies_by_the_weights_as_they_are_after_each_update():
    """autocast's cached copies would let the actor see old critics, and several steps in one call none of their updates."""
    changes = {}
    for precision in ("fp32", "bf16"):
        rates = dict.fromkeys(("learning_rate", "critic_learning_rate", "vae_learning_rate"), 1e-2)
        model = pendulum(precision=precision, warmup_steps=0, batch_size=256, **rates)
        model._setup_learn(20)
        before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
        model.train(20, 256)
        changes[precision] = {n: (p.detach() - before[n]).flatten() for n, p in model.policy.named_parameters()}
    for name, change in changes["fp32"].items():
        assert th.cosine_similarity(change, changes["bf16"][name], dim=0) > 0.95, name


def test_bf16_is_refused_by_name_where_the_processor_lacks_it(monkeypatch):
    monkeypatch.setattr(bear_module, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match='precision="bf16": this processor'):
        pendulum(precision="bf16")
    with pytest.raises(ValueError, match="precision='fp16'"):
        pendulum(precision="fp16")


def test_a_bf16_model_is_loaded_and_acts_where_the_processor_lacks_it(monkeypatch, tmp_path):
    model = pendulum(precision="bf16")
    model.save(tmp_path / "model")
    monkeypatch.setattr(bear_module, "has_bf16", lambda device: False)
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


def test_cached_samples_are_the_behaviours():
    """Each state's samples are those of the VAE at that state, and a batch draws distinct ones of its own rows."""
    model = pendulum(behavior_steps=1, behavior_cache_bytes=30_000 * 4 * 12).learn(2)
    samples = model._behavior_samples
    assert samples.shape == (30_000, 12, 1)
    # What can be told apart; the VAE's own are often equal, for its latents are clipped.
    model._behavior_samples = samples + th.arange(12.0).reshape(12, 1) * 100
    rows = th.tensor([7, 20_000, 7, 123])
    data = model.replay_buffer.get(rows)
    drawn = model._behavior_actions(data, rows)
    assert drawn.shape == (4, 4, 1)
    for row, actions in zip(rows.tolist(), drawn, strict=True):
        assert set(actions.flatten().tolist()) <= set(model._behavior_samples[row].flatten().tolist())
        assert len(set(actions.flatten().tolist())) == 4
    # Over many draws each sample comes as often.
    counts = th.zeros(12)
    for _ in range(300):
        drawn = model._behavior_actions(data, rows)[0].flatten()
        counts += (model._behavior_samples[7].flatten()[:, None] == drawn).any(dim=1)
    assert counts.min() > 60
    # They follow the VAE's distribution at each state.
    rows = th.arange(0, 30_000, 100)
    with th.no_grad():
        fresh = model.behavior_vae.raw_actions(model.replay_buffer.get(rows).observations, th.randn(300, 12, 2))
    th.testing.assert_close(
        samples[rows].mean(dim=1), fresh.mean(dim=1), rtol=0, atol=5 * fresh.std(dim=1).max().item() / 12**0.5
    )
    assert samples[rows].std(dim=1).mean().item() == pytest.approx(fresh.std(dim=1).mean().item(), rel=0.1)


def test_without_room_for_a_cache_samples_are_drawn_as_before(tmp_path, monkeypatch):
    model = pendulum(behavior_steps=1, behavior_cache_bytes=30_000 * 4 * 3).learn(3)
    assert model._behavior_samples is None
    assert pendulum(behavior_steps=1, behavior_cache_bytes=30_000 * 4 * 4).learn(3)._behavior_samples.shape[1] == 4


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
    assert not th.equal(first, model._behavior_samples)


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
    assert not th.equal(first, model._behavior_samples)
    assert th.allclose(first.mean(dim=1), model._behavior_samples.mean(dim=1).flip(0), atol=0.5)


def test_a_dataset_at_the_address_of_one_that_is_gone_gets_samples_of_its_own(monkeypatch):
    monkeypatch.setattr(bear_module, "id", lambda _: 0, raising=False)
    model = BEAR("MlpPolicy", None, make_arrays(), seed=0, policy_kwargs=TINY, warmup_steps=0, behavior_steps=1).learn(2)
    first = model._behavior_samples
    model.set_dataset(make_arrays(seed=1))
    model.learn(1, reset_num_timesteps=False)
    assert not th.equal(first, model._behavior_samples)


def test_wrong_behaviour_steps_are_named():
    with pytest.raises(ValueError, match="behavior_steps=0"):
        pendulum(behavior_steps=0)
