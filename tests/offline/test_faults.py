"""Wrong or unusual data: what is not finite stops the run by name, and what is merely unusual is learnt from."""

import io
import threading

import numpy as np
import pytest
import torch as th
from conftest import TINY, Dropping, make_arrays
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_pg_extras import BC, BCQ, BEAR, TD3BC, load_dataset

SMALL = {BEAR: TINY, BCQ: TINY, BC: {"net_arch": [16]}, TD3BC: {"net_arch": [16]}}


def tiny(algorithm, data, policy="MlpPolicy", **kwargs):
    return algorithm(policy, None, data, policy_kwargs=SMALL[algorithm], seed=0, device="cpu", **kwargs)


# What is not finite.


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["rewards"].fill(3e38),
        lambda data: (data["observations"].fill(1e20), data["next_observations"].fill(1e20)),
    ],
)
def test_what_stops_being_finite_stops_the_run_by_name(change, tmp_path):
    data = make_arrays()
    change(data)
    arguments = {"warmup_fraction": 0, "normalize_observations": False}
    model = tiny(BEAR, data, **arguments)
    with pytest.raises(ValueError, match=r"_loss is not finite at gradient step 100.*normalize_observations"):
        model.learn(300)
    with pytest.raises(ValueError, match="is not finite"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is not finite at gradient step 3"):
        tiny(BEAR, data, **arguments).learn(3)


def test_weights_that_overflow_stop_cloning_too():
    with pytest.raises(ValueError, match="is not finite at gradient step 40"):
        tiny(BC, make_arrays(), learning_rate=3e37).learn(40)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny(BC, make_arrays()).learn(1)
    with th.no_grad():
        next(model.policy.parameters())[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"actor\.latent_pi\.0\.weight is not finite"):
        model.save(tmp_path / "model")


@pytest.mark.parametrize("algorithm", SMALL)
def test_an_observation_that_is_not_a_number_gives_no_action(algorithm):
    model = tiny(algorithm, make_arrays())
    for policy in (model, model.policy, getattr(model.policy, "behavior_vae", model)):
        with pytest.raises(ValueError, match=r"not finite|invalid values"):
            policy.predict(np.full(3, np.nan, np.float32), deterministic=True)


# Widths of the action space.


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_dimension_of_no_width_gets_its_bound(algorithm):
    data = make_arrays()
    data["actions"][:, 1] = 0.25
    data["action_space"] = spaces.Box(np.array([-2, 0.25], np.float32), np.array([3, 0.25], np.float32))
    model = tiny(algorithm, data).learn(20)
    actions = model.predict(data["observations"], deterministic=True)[0]
    assert (actions[:, 1] == np.float32(0.25)).all()
    assert np.isfinite(actions).all()
    assert (model.replay_buffer.actions[:, 0, 1] == 0).all()


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_dimension_too_wide_for_single_precision_is_named(algorithm):
    data = make_arrays()
    data["action_space"] = spaces.Box(np.array([-2, -3e38], np.float32), np.array([3, 3e38], np.float32))
    with pytest.raises(ValueError, match=r"action_space: dimension 1 goes from -3e\+38 to 3e\+38"):
        tiny(algorithm, data)


# Observations that do not count from 0.


@pytest.mark.parametrize("space", [spaces.Discrete(4, start=2), spaces.MultiDiscrete([4], start=[2])])
@pytest.mark.parametrize("algorithm", SMALL)
def test_choices_that_do_not_start_at_0_are_refused_by_name(algorithm, space):
    """SB3's networks would read 2, the first choice, as the third."""
    values = np.random.default_rng(0).integers(2, 6, (40, *space.shape))
    data = make_arrays() | {"observations": values, "next_observations": values, "observation_space": space}
    with pytest.raises(ValueError, match=r"observation_space .*start=.*2.* is not supported"):
        tiny(algorithm, data)


# Names.


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("algorithm", SMALL)
def test_keys_with_dots_are_learnt_from(algorithm, normalize, tmp_path):
    data = {name: value for name, value in make_arrays().items() if name != "observation_space"}
    dotted = {"observation.state": data["observations"], "observation.state.joints": np.ones((40, 2), np.float32)}
    data |= {"observations": dotted, "next_observations": dotted}
    model = tiny(algorithm, data, "MultiInputPolicy", normalize_observations=normalize).learn(2)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(dotted, deterministic=True)[0], model.predict(dotted, deterministic=True)[0]
    )


# Threads.


def test_models_that_learn_in_threads_change_nothing_for_each_other():
    """One with large layers multiplies by oneDNN, one with small layers does not; the user's setting is there afterwards."""
    large, small = {"net_arch": [256, 256], "vae_net_arch": [32]}, {"net_arch": [32], "vae_net_arch": [32]}

    def make(policy_kwargs):
        return BEAR("MlpPolicy", None, make_arrays(), policy_kwargs=policy_kwargs, seed=0, device="cpu", warmup_fraction=0)

    alone = [make(kwargs).learn(30) for kwargs in (large, small)]
    together = [make(kwargs) for kwargs in (large, small)]
    threads = [threading.Thread(target=model.learn, args=(30,)) for model in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert th.get_float32_matmul_precision() == "highest"
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            assert th.equal(a, b)


# Going on.


@pytest.mark.parametrize("algorithm", SMALL)
def test_going_on_with_dropout_equals_never_having_stopped(algorithm, tmp_path):
    def make():
        kwargs = {"policy_kwargs": SMALL[algorithm] | {"features_extractor_class": Dropping}, "seed": 0}
        return algorithm("MlpPolicy", None, make_arrays(), device="cpu", **kwargs)

    whole, part = make().learn(10), make()
    part.learn(10, callback=lambda locals_, _: locals_["self"].num_timesteps < 5)
    part.save(tmp_path / "model")
    th.rand(7)  # what else draws from the global generator changes nothing
    loaded = algorithm.load(tmp_path / "model", dataset=make_arrays(), device="cpu")
    before = th.get_rng_state()
    loaded.learn(5, reset_num_timesteps=False)
    assert th.equal(th.get_rng_state(), before)
    for a, b in zip(whole.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_each_checkpoint_has_a_dataset_of_its_own(tmp_path):
    """SB3 writes over files in place: what it does to one must not change another."""
    model = tiny(BC, make_arrays(200))
    model.learn(4, callback=CheckpointCallback(2, str(tmp_path), save_replay_buffer=True))
    files = sorted(tmp_path.glob("*replay_buffer*.pkl"))
    assert len(files) == 2
    files[0].write_bytes(b"")
    assert len(load_dataset(files[1])) == 200


def test_replay_buffers_are_loaded_as_they_are_saved(tmp_path):
    model = tiny(BC, make_arrays(30))
    model.save_replay_buffer(tmp_path / "buffer")
    file = io.BytesIO()
    model.save_replay_buffer(file)
    file.seek(0)
    for source in (tmp_path / "buffer", file):
        other = tiny(BC, make_arrays(20))
        other.load_replay_buffer(source)
        np.testing.assert_array_equal(other.replay_buffer.dataset.rewards, model.replay_buffer.dataset.rewards)
