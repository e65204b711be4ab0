"""Exported policies act as ``predict`` does, on raw observations, also where there is no PyTorch."""

import io
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch as th
from conftest import TINY, make_arrays
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from sb3_pg_extras import BC, BCQ, BEAR, REINFORCE, TD3BC, SingleStepA2C
from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.export import export_onnx
from sb3_pg_extras.common.on_policy import MlpPolicy
from sb3_pg_extras.common.optional import MissingPackageError

PAGE = Path(__file__).parent.parent.parent / "docs" / "robot.md"
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
BOX = make_arrays()["action_space"]
MIXED = spaces.Dict({"a.b": spaces.Box(-1, 2, (2,), np.float64), "camera": IMAGE, "mode": spaces.Discrete(4)})


class Still(gym.Env):
    """An environment in which nothing happens."""

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space = BOX) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def observations(space: spaces.Space, n: int = 60):
    """Half of a vector's numbers are extreme."""
    if isinstance(space, spaces.Dict):
        return {key: observations(part, n) for key, part in space.items()}
    space.seed(0)
    values = np.stack([space.sample() for _ in range(n)])
    if values.dtype.kind == "f":
        values[::2] = np.random.default_rng(0).choice([-1e6, 1e6, 0, 1, 2], values[::2].shape)
    return values


def offline(algorithm, space=VECTOR, policy_kwargs=None, **kwargs):
    obs = observations(space, 40)
    data = make_arrays() | {"observations": obs, "next_observations": obs, "observation_space": space}
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"
    policy_kwargs = policy_kwargs or ({"net_arch": [16]} if algorithm in (BC, TD3BC) else TINY)
    model = algorithm(policy, None, data, policy_kwargs=policy_kwargs, seed=0, device="cpu", **kwargs)
    return with_large_weights(model)


def online(algorithm, observation_space=VECTOR, action_space=BOX, policy="MlpPolicy", env=None, **kwargs):
    env = env or Still(observation_space, action_space)
    return with_large_weights(algorithm(policy, env, seed=0, device="cpu", **kwargs))


def with_large_weights(model):
    """So that actions differ."""
    with th.no_grad():
        for parameter in model.policy.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    return model


def exported(model, **kwargs):
    """What both files make of raw observations, one after the other."""
    onnx, script = io.BytesIO(), io.BytesIO()
    model.export_onnx(onnx, **kwargs)
    model.export_torchscript(script, **kwargs)
    session = onnxruntime.InferenceSession(onnx.getvalue())
    loaded = th.jit.load(io.BytesIO(script.getvalue()))
    return [
        lambda obs: session.run(["action"], obs if isinstance(obs, dict) else {"observation": obs})[0],
        lambda obs: loaded(map_arrays(th.as_tensor, obs)).numpy(),
    ]


def assert_acts_as(model, obs, wanted=None, **kwargs):
    wanted = model.predict(obs, deterministic=True)[0] if wanted is None else wanted
    assert len(np.unique(wanted, axis=0)) > 1
    for act in exported(model, **kwargs):
        for rows in (slice(0, 1), slice(1, 8), slice(None)):
            actions = act(map_arrays(lambda array: array[rows], obs))  # noqa: B023
            assert actions.dtype == model.action_space.dtype
            np.testing.assert_allclose(actions, wanted[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize_observations", [False, True])
@pytest.mark.parametrize("algorithm", [BC, BCQ, BEAR, TD3BC])
def test_offline_algorithms(algorithm, normalize_observations):
    assert_acts_as(offline(algorithm, normalize_observations=normalize_observations), observations(VECTOR))


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(4), spaces.MultiDiscrete([2, 5]), spaces.MultiBinary(3)], ids=str)
@pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C])
def test_online_algorithms_and_action_spaces(algorithm, space):
    assert_acts_as(online(algorithm, action_space=space), observations(VECTOR))


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(4)], ids=str)
def test_observation_spaces(space):
    assert_acts_as(online(REINFORCE, space), observations(space))


def test_the_stream_policy_and_gsde():
    assert_acts_as(online(SingleStepA2C, policy="StreamPolicy"), observations(VECTOR))
    model = online(REINFORCE, use_sde=True, policy_kwargs={"squash_output": True})
    assert_acts_as(model, observations(VECTOR))


def test_an_activation_that_onnxruntime_has_in_single_precision_only():
    assert_acts_as(offline(BEAR, policy_kwargs=TINY | {"activation_fn": nn.ELU}), observations(VECTOR))


def test_images_are_taken_as_the_dataset_has_them():
    assert_acts_as(offline(BEAR, IMAGE), observations(IMAGE))


def test_images_of_an_environment_and_without_one(tmp_path):
    model = online(REINFORCE, IMAGE, policy="CnnPolicy")
    assert_acts_as(model, observations(IMAGE))
    model.save(tmp_path / "model")
    # Then nothing says that they came as (height, width, channels).
    assert_acts_as(REINFORCE.load(tmp_path / "model", device="cpu"), np.moveaxis(observations(IMAGE), 3, 1))


def test_dicts():
    assert_acts_as(offline(BEAR, MIXED, normalize_observations=True), observations(MIXED))
    space = spaces.Dict({key.replace(".", "_"): part for key, part in MIXED.items()})
    assert_acts_as(online(REINFORCE, space, policy="MultiInputPolicy"), observations(space))


def normalizing(space=VECTOR) -> VecNormalize:
    env = VecNormalize(DummyVecEnv([lambda: Still(space)]))
    for rms in env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]:
        rms.update(np.random.default_rng(0).normal(3, 2, (50, *rms.mean.shape)))
    return env


def test_vec_normalize_is_inside_unless_it_shall_not_be(tmp_path):
    env = normalizing()
    model, obs = online(REINFORCE, env=env), observations(VECTOR)
    wanted = model.predict(env.normalize_obs(obs), deterministic=True)[0]
    assert np.abs(wanted - model.predict(obs, deterministic=True)[0]).max() > 0.1
    assert_acts_as(model, obs, wanted)
    assert_acts_as(model, obs, vec_normalize=False)
    model.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model", device="cpu")
    assert_acts_as(loaded, obs)
    assert_acts_as(loaded, obs, wanted, vec_normalize=env)


def test_vec_normalize_of_a_dict_normalises_its_keys():
    space = spaces.Dict({"x": VECTOR, "y": spaces.Box(-1, 1, (2,))})
    env = normalizing(space)
    obs = observations(space)
    model = online(REINFORCE, env=env, policy="MultiInputPolicy")
    assert_acts_as(model, obs, model.predict(env.normalize_obs(obs), deterministic=True)[0])


def test_frames_that_are_stacked_after_they_were_normalised_are_refused(tmp_path):
    model = online(REINFORCE, env=VecFrameStack(normalizing(), 2))
    with pytest.raises(ValueError, match=r"shape \(6,\), the environment gives \(3,\)"):
        model.export_onnx(tmp_path / "policy")
    assert_acts_as(model, observations(model.observation_space), vec_normalize=False)


def test_any_algorithm_of_sb3(tmp_path):
    model = with_large_weights(SAC("MlpPolicy", Still(), device="cpu", policy_kwargs={"net_arch": [16]}))
    export_onnx(model, tmp_path / "sac.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "sac.onnx")
    obs = observations(VECTOR)
    np.testing.assert_allclose(
        session.run(None, {"observation": obs})[0], model.predict(obs, deterministic=True)[0], atol=1e-5
    )


class Halving(MlpPolicy):
    """A policy with a predict() of its own."""

    def predict(self, *args, **kwargs):
        actions, state = super().predict(*args, **kwargs)
        return actions / 2, state


class Counting(MlpPolicy):
    """A policy whose actions depend on the batch size."""

    def _predict(self, observation, deterministic=False):
        return super()._predict(observation, deterministic) * len(observation) / 10


@pytest.mark.parametrize("policy", [Halving, Counting])
def test_a_policy_that_would_act_otherwise_is_refused_and_leaves_no_file(tmp_path, policy):
    model = online(REINFORCE, policy=policy)
    for export in (model.export_onnx, model.export_torchscript):
        with pytest.raises(ValueError, match=f"{policy.__name__} cannot be exported"):
            export(tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_dropout_is_off():
    policy_kwargs = {"net_arch": [16], "activation_fn": nn.Dropout}
    model = online(REINFORCE, policy_kwargs=policy_kwargs)
    model.policy.set_training_mode(True)
    assert_acts_as(model, observations(VECTOR))


def test_training_goes_on_as_if_nothing_had_been_exported(tmp_path):
    models = [offline(BEAR, batch_size=8).learn(3) for _ in range(2)]
    models[1].export_torchscript(tmp_path / "policy")
    weights = [nn.utils.parameters_to_vector(model.learn(3).policy.parameters()) for model in models]
    assert th.equal(*weights)


def test_suffixes_and_the_missing_package(tmp_path, monkeypatch):
    model = online(REINFORCE)
    model.export_torchscript(tmp_path / "policy")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=re.escape('pip install "sb3-pg-extras[export]"')):
        model.export_onnx(tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt"]


def test_the_robot_of_the_docs_needs_no_torch(tmp_path):
    model = offline(BEAR)
    model.export_onnx(tmp_path / "policy")
    (loop,) = re.findall(r"```python\n(import numpy as np\nimport onnxruntime.*?)```", PAGE.read_text(), re.DOTALL)
    robot = """
import sys
sys.modules.update(torch=None, stable_baselines3=None, sb3_pg_extras=None)
class robot:
    seen, acted = [], []
    def observe():
        robot.seen.append([0.1, 0.2 * len(robot.seen), -0.3])
        return robot.seen[-1]
    def act(action):
        robot.acted.append(action.tolist())
        if len(robot.acted) == 3:
            print(robot.seen, robot.acted, sep="\\n")
            raise SystemExit
"""
    process = subprocess.run(
        [sys.executable, "-c", robot + loop], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    seen, acted = map(eval, process.stdout.splitlines())
    wanted = model.predict(np.array(seen, np.float32), deterministic=True)[0]
    assert len(acted) == 3
    np.testing.assert_allclose(acted, wanted, atol=1e-5)


def test_recurrent_policies_are_refused():
    model = RecurrentPPO("MlpLstmPolicy", Still(), policy_kwargs={"lstm_hidden_size": 8}, device="cpu")
    with pytest.raises(ValueError, match="cannot be exported: a recurrent policy acts by its memory"):
        export_onnx(model, io.BytesIO())
