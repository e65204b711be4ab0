"""Observations normalised inside the networks: whichever way an observation comes in, the action is the same."""

import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BC, BCQ, BEAR, TD3BC, load_dataset
from sb3_pg_extras.offline.extractors import NormalizedExtractor, has_vectors, set_observation_statistics
from sb3_pg_extras.offline.normalization import set_moments
from sb3_pg_extras.offline.sources import DatasetEnv


def shifted(n: int = 400) -> dict:
    """Observations around 100, and an action that tells which side of it they are."""
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], n)
    observations = (100 + 0.1 * side[:, None] + 0.02 * rng.normal(size=(n, 3))).astype(np.float32)
    actions = np.stack([0.5 + 2.25 * side, 0.5 + 0.45 * side], axis=1).astype(np.float32)
    return make_arrays(n) | {"observations": observations, "next_observations": observations, "actions": actions}


def normalizing(algorithm=BEAR, **kwargs):
    rates = {"vae_learning_rate": 3e-3} if algorithm is BEAR else {}
    more = {"warmup_fraction": 0} if algorithm is BEAR else {}
    return algorithm(
        "MlpPolicy", None, kwargs.pop("dataset", shifted()), normalize_observations=True, learning_rate=3e-3, seed=0,
        device="cpu", **rates, **more, **kwargs,
    )  # fmt: skip


def test_normalises_as_vec_normalize_does():
    dataset = load_dataset(shifted())
    extractor = NormalizedExtractor(dataset.observation_space)
    raw = th.from_numpy(dataset.observations.copy())
    assert th.equal(extractor(raw), raw)  # no statistics yet
    set_observation_statistics(extractor, dataset)
    env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(dataset)]))
    set_moments(env.obs_rms, dataset.observations)
    np.testing.assert_allclose(extractor(raw), env.normalize_obs(dataset.observations), atol=1e-4)
    assert extractor(th.full((1, 3), 1e6)).tolist() == [[10, 10, 10]]


def test_vectors_of_a_dict_are_normalised_and_the_rest_is_not():
    space = spaces.Dict(
        {"joints": spaces.Box(-9, 9, (2,)), "image": spaces.Box(0, 255, (3, 36, 36), np.uint8), "n": spaces.Discrete(3)}
    )
    extractor = NormalizedExtractor(space)
    assert extractor.keys == ["joints"]
    statistics = RunningMeanStd(shape=(2,))
    statistics.mean, statistics.var = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    extractor.set_statistics({"joints": statistics})
    seen = []
    extractor.extractor.forward = lambda observations: seen.append(observations) or th.zeros(1, extractor.features_dim)
    image, n = th.rand(1, 3, 36, 36), th.eye(3)[:1]
    extractor({"joints": th.tensor([[3.0, 5.0]]), "image": image, "n": n})
    th.testing.assert_close(seen[0]["joints"], th.tensor([[1.0, 1.0]]))
    assert seen[0]["image"] is image and seen[0]["n"] is n


def test_without_a_vector_it_is_refused():
    with pytest.raises(ValueError, match="normalize_observations=True needs vectors"):
        NormalizedExtractor(spaces.Box(0, 255, (3, 36, 36), np.uint8))


def test_which_spaces_have_vectors():
    image, vector = spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-1, 1, (2,))
    has = [has_vectors(space) for space in (vector, image, spaces.Dict(a=image, b=vector), spaces.Dict(a=image), None)]
    assert has == [True, False, True, False, False]


class _MeanAction(th.nn.Module):
    def __init__(self, actor):
        super().__init__()
        self.actor = actor

    def forward(self, obs):
        return self.actor(obs, deterministic=True)


@pytest.mark.parametrize("algorithm", [BEAR, BC])
def test_all_ways_in_act_alike(algorithm, tmp_path):
    """predict, a call of the policy, a traced policy, a saved one, and for BEAR the VAE and SAC."""
    kwargs = {"policy_kwargs": {"net_arch": [32], "vae_net_arch": [32]} if algorithm is BEAR else {"net_arch": [32]}}
    model = normalizing(algorithm, **kwargs).learn(150)
    raw = shifted()["observations"][:20]
    predicted = model.predict(raw, deterministic=True)[0]
    side = np.sign(raw[:, 0] - 100)
    assert (np.sign(predicted[:, 0] - 0.5) == side).all()  # it has learnt, which it could not from numbers around 100

    def act(policy) -> np.ndarray:
        with th.no_grad():
            return model.policy.unscale_action(policy(th.from_numpy(raw)).numpy())

    deterministic = lambda obs: model.policy._predict(obs, deterministic=True)  # noqa: E731
    np.testing.assert_allclose(act(deterministic), predicted, atol=1e-5)
    mean_action = _MeanAction(model.policy.actor)
    traced = th.jit.trace(mean_action, th.from_numpy(raw))
    np.testing.assert_allclose(act(traced), act(mean_action), atol=1e-5)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy.pth")
    for loaded in (
        type(model).load(tmp_path / "model", device="cpu"),
        type(model.policy).load(tmp_path / "policy.pth", device="cpu"),
    ):
        np.testing.assert_array_equal(loaded.predict(raw, deterministic=True)[0], predicted)
    if algorithm is BEAR:
        cloned = model.behavior_vae.predict(raw, deterministic=True)[0]
        assert (np.sign(cloned[:, 0] - 0.5) == side).all()


@pytest.mark.parametrize("algorithm", [BEAR, BC])
def test_another_dataset_brings_its_own_statistics(algorithm):
    model = normalizing(algorithm, policy_kwargs=TINY if algorithm is BEAR else {"net_arch": [8]})
    extractors = [module for module in model.policy.modules() if isinstance(module, NormalizedExtractor)]
    assert len(extractors) >= (4 if algorithm is BEAR else 3)  # each network's own
    for extractor in extractors:
        np.testing.assert_allclose(extractor.normalizers[0].mean, shifted()["observations"].mean(axis=0), rtol=1e-5)
    model.set_dataset(make_arrays())
    for extractor in extractors:
        np.testing.assert_allclose(extractor.normalizers[0].mean, make_arrays()["observations"].mean(axis=0), atol=1e-5)


def test_features_of_the_users_own_get_normalised_observations():
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class Seen(FlattenExtractor):
        def forward(self, observations):
            largest.append(observations.abs().max().item())
            return super().forward(observations)

    largest: list[float] = []
    normalizing(policy_kwargs=TINY | {"features_extractor_class": Seen}).learn(1)
    assert largest and max(largest) <= 10


class Features(BaseFeaturesExtractor):
    """The user's own."""

    def __init__(self, observation_space: spaces.Space, features_dim: int = 4) -> None:
        super().__init__(observation_space, features_dim)
        self.layer = th.nn.Linear(3, features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


@pytest.mark.parametrize("algorithm", [BEAR, BC, BCQ, TD3BC])
def test_a_policy_class_may_have_an_extractor_of_its_own(algorithm):
    base = algorithm.policy_aliases["MlpPolicy"]

    class Default(base):
        def __init__(self, *args, features_extractor_class=Features, **kwargs):
            super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)

    class Passes(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, features_extractor_class=Features, **kwargs)

    class Makes(base):
        def make_features_extractor(self):
            return Features(self.observation_space)

    def kinds(policy, normalize_observations):
        model = algorithm(policy, None, shifted(), normalize_observations=normalize_observations, device="cpu")
        return {type(module) for module in model.policy.modules()} & {Features, NormalizedExtractor}

    for policy in (Default, Passes, Makes):
        assert kinds(policy, False) == {Features}
    assert kinds(Default, True) == {Features, NormalizedExtractor}
    for policy in (Passes, Makes):
        with pytest.raises(ValueError, match=f"{policy.__name__} makes its own features extractor"):
            kinds(policy, True)


@pytest.mark.parametrize("algorithm", [BEAR, BC, BCQ, TD3BC])
def test_policies_for_images_refuse_vectors(algorithm):
    with pytest.raises(AssertionError, match="NatureCNN only with images"):
        algorithm("CnnPolicy", None, shifted(), device="cpu")
