"""``policy.save`` and ``policy.load`` of the offline algorithms (of the online ones: tests/common/test_on_policy.py)."""

import numpy as np
import pytest
import torch as th
from conftest import make_arrays
from gymnasium import spaces

from sb3_pg_extras import BC, BEAR
from sb3_pg_extras.offline.extractors import CombinedExtractor

IMAGE, VECTOR = spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Box(-np.inf, np.inf, (3,))
SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 8}}
SPACES = {"MlpPolicy": VECTOR, "CnnPolicy": IMAGE, "MultiInputPolicy": spaces.Dict({"image": IMAGE, "a.vector": VECTOR})}
CASES = [
    ("MlpPolicy", {}, {}),
    ("MlpPolicy", {}, {"net_arch": {"pi": [4], "qf": [8, 8]}, "activation_fn": th.nn.Tanh}),
    ("MlpPolicy", {}, {"n_critics": 3, "optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}),
    ("MlpPolicy", {"normalize_observations": True}, {"share_features_extractor": True}),
    ("CnnPolicy", {}, SMALL_CNN | {"normalize_images": True}),
    ("CnnPolicy", {}, SMALL_CNN | {"share_features_extractor": True}),
    ("MultiInputPolicy", {"normalize_observations": True}, {"features_extractor_kwargs": {"cnn_output_dim": 8}}),
    ("MultiInputPolicy", {}, {"features_extractor_class": CombinedExtractor, "share_features_extractor": True}),
]
OWN = {"vae_net_arch": [4, 4], "vae_latent_dim": 3}


@pytest.mark.parametrize("algorithm", [BC, BEAR])
@pytest.mark.parametrize(("name", "kwargs", "policy_kwargs"), CASES)
def test_a_policy_saved_and_loaded_computes_the_same(algorithm, name, kwargs, policy_kwargs, tmp_path):
    space = SPACES[name]
    space.seed(0)
    rows = [space.sample() for _ in range(41)]
    rows = {key: np.stack([row[key] for row in rows]) for key in space} if name == "MultiInputPolicy" else np.stack(rows)
    part = lambda s: {key: v[s] for key, v in rows.items()} if isinstance(rows, dict) else rows[s]  # noqa: E731
    dataset = make_arrays() | {
        "observations": part(slice(-1)), "next_observations": part(slice(1, None)), "observation_space": space
    }  # fmt: skip
    own = {"n_action_samples": 7} if algorithm is BEAR else {}
    policy_kwargs = {"net_arch": [8]} | (OWN if algorithm is BEAR else {}) | policy_kwargs
    model = algorithm(name, None, dataset, seed=0, batch_size=8, policy_kwargs=policy_kwargs, **kwargs | own).learn(3)
    model.policy.save(tmp_path / "policy.pth")
    loaded = type(model.policy).load(tmp_path / "policy.pth", device=model.device)
    for one, other in zip(model.policy.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert one[0] == other[0] and th.equal(one[1], other[1])
    obs = part(slice(9))
    predictions = [policy.predict(obs, deterministic=True)[0] for policy in (model.policy, loaded)]
    np.testing.assert_array_equal(*predictions)
    actions = th.rand(9, 2)
    values = [policy.critic(policy.obs_to_tensor(obs)[0], actions) for policy in (model.policy, loaded)]
    assert len(values[0]) == policy_kwargs.get("n_critics", 2)
    for one, other in zip(*values, strict=True):
        assert th.equal(one, other)
    parameters = [policy._get_constructor_parameters() for policy in (model.policy, loaded)]
    assert parameters[0].keys() == parameters[1].keys()
    for key in parameters[0].keys() - {"lr_schedule", "observation_space", "action_space"}:
        assert parameters[0][key] == parameters[1][key]
    assert loaded.share_features_extractor == policy_kwargs.get("share_features_extractor", False)
    if algorithm is BEAR:
        vaes = [policy.behavior_vae.predict(obs, deterministic=True)[0] for policy in (model.policy, loaded)]
        np.testing.assert_array_equal(*vaes)
