"""Which of several candidate actions is taken."""

import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from torch import nn

from sb3_pg_extras import BCQ, BEAR


def model_of(algorithm, offset: float = 0.0, **policy_kwargs):
    """A model whose values differ little from a large offset."""
    model = algorithm("MlpPolicy", None, make_arrays(), policy_kwargs=TINY | policy_kwargs, seed=0, device="cpu")
    with th.no_grad():
        model.policy.critic.q_networks[0][-1].bias.fill_(offset)
    return model


@pytest.mark.parametrize("algorithm", [BCQ, BEAR])
def test_rounding_does_not_choose(algorithm):
    """At 1e6 single precision has steps of 0.06; the offset says nothing about which candidate is best."""
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    model = model_of(algorithm, 1e6)
    actions = model.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(actions, model_of(algorithm).predict(obs, deterministic=True)[0], atol=1e-5)
    single = [model.predict(row, deterministic=True)[0] for row in obs]
    np.testing.assert_allclose(actions, single, atol=1e-6)
    assert actions.dtype == np.float32


@pytest.mark.parametrize("algorithm", [BCQ, BEAR])
def test_a_loaded_model_may_have_other_candidates(algorithm, tmp_path):
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    kwargs = {"policy_kwargs": TINY, "n_action_samples": 20, "seed": 0, "device": "cpu"}
    model = algorithm("MlpPolicy", None, make_arrays(), **kwargs)
    model.save(tmp_path / "model")
    fewer = algorithm.load(tmp_path / "model", n_action_samples=1, device="cpu")
    assert th.equal(fewer.policy.candidate_noise, model.policy.candidate_noise[:, :1])
    first = model.policy.candidates(th.from_numpy(obs), model.policy.candidate_noise[:, :1].expand(20, -1, -1)).squeeze(1)
    expected = model.policy.unscale_action(first.detach().numpy())
    np.testing.assert_allclose(fewer.predict(obs, deterministic=True)[0], expected, atol=1e-5)
    more = algorithm.load(tmp_path / "model", n_action_samples=30, device="cpu")
    assert more.policy.candidate_noise.shape[1] == 30 and more.policy.candidate_noise.std() > 0.5
    more.save(tmp_path / "more")
    again = algorithm.load(tmp_path / "more", device="cpu")
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], more.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("activation_fn", [nn.ELU, nn.GELU, nn.SELU, nn.Softplus, nn.Mish, nn.LeakyReLU])
def test_double_precision_knows_activations(activation_fn):
    model = model_of(BEAR, activation_fn=activation_fn)
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    noise = model.policy.candidate_noise.expand(20, -1, -1)
    with th.no_grad():
        wanted = model.policy._best(th.as_tensor(obs), noise)
    actions = model.policy.scale_action(model.predict(obs, deterministic=True)[0])
    np.testing.assert_allclose(actions, wanted, atol=1e-5)


def tiny(algorithm, data=None, policy="MlpPolicy", **policy_kwargs):
    return algorithm(policy, None, data or make_arrays(), policy_kwargs=TINY | policy_kwargs, seed=0, device="cpu")


@pytest.mark.parametrize("algorithm", [BCQ, BEAR])
def test_the_users_arguments_of_the_optimiser_are_all_networks(algorithm):
    policy = tiny(algorithm, optimizer_kwargs={"weight_decay": 0.1}).policy
    for network in (policy.actor, policy.critic, policy.behavior_vae):
        assert network.optimizer.param_groups[0]["weight_decay"] == 0.1
        assert not network.optimizer.param_groups[0].get("fused")


@pytest.mark.parametrize("algorithm", [BCQ, BEAR])
def test_images_that_need_no_scaling_are_not_scaled_in_the_vae_either(algorithm):
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 36, 1), dtype=np.uint8)
    rest = {name: value for name, value in make_arrays().items() if name != "observation_space"}
    data = rest | {"observations": image, "next_observations": image}
    policy = tiny(algorithm, data, "CnnPolicy", normalize_images=False).policy
    assert [policy.normalize_images, policy.behavior_vae.normalize_images] == [False, False]


def test_the_vae_acts_by_its_middle_latent():
    vae, obs = tiny(BEAR).policy.behavior_vae, make_arrays()["observations"]
    with th.no_grad():
        middle = th.tanh(
            vae.decoder(th.cat([vae.extract_features(th.as_tensor(obs), vae.features_extractor), th.zeros(40, 4)], 1))
        )
    np.testing.assert_allclose(vae.predict(obs, deterministic=True)[0], vae.unscale_action(middle.numpy()), atol=1e-6)
