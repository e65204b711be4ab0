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


@pytest.mark.parametrize("activation_fn", [nn.ELU, nn.GELU, nn.SELU, nn.Softplus, nn.Mish, nn.LeakyReLU])
def test_double_precision_knows_activations(activation_fn):
    model = model_of(BEAR, activation_fn=activation_fn)
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    noise = model.policy.candidate_noise.expand(20, -1, -1)
    with th.no_grad():
        wanted = model.policy._best(th.as_tensor(obs), noise)
    actions = model.policy.scale_action(model.predict(obs, deterministic=True)[0])
    np.testing.assert_allclose(actions, wanted, atol=1e-5)
