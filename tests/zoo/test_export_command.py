"""``sb3-pg-extras export``: the zoo's folders become files."""

import sys

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch as th
import yaml
from conftest import TINY
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import sb3_pg_extras.zoo
from sb3_pg_extras import BEAR, REINFORCE


class Camera(gym.Env):
    """Images as most environments give them."""

    observation_space, action_space = spaces.Box(0, 255, (36, 40, 1), np.uint8), spaces.Box(-2, 2, (2,))

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sb3-pg-extras", "export", "-f", "logs", *arguments])
        sb3_pg_extras.zoo.main()

    return run


def save_as_the_zoo_does(model, folder, algo: str, env_id: str, hyperparams: dict) -> None:
    with th.no_grad():
        for parameter in model.policy.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    run = folder / "logs" / algo / f"{env_id}_1"
    (run / env_id).mkdir(parents=True)
    model.save(run / env_id)
    (run / env_id / "config.yml").write_text(yaml.safe_dump(hyperparams))
    if model.get_vec_normalize_env() is not None:
        model.get_vec_normalize_env().save(str(run / env_id / "vecnormalize.pkl"))


def test_without_the_environment(tmp_path, monkeypatch, export):
    model = BEAR("MlpPolicy", "Pendulum-v1", policy_kwargs=TINY, device="cpu")
    save_as_the_zoo_does(model, tmp_path, "bear", "Pendulum-v1", {"policy": "MlpPolicy"})
    monkeypatch.setattr(gym, "make", None)
    monkeypatch.setattr(gym.envs.registration.EnvSpec, "make", None)
    export("--algo", "bear", "--env", "Pendulum-v1", "-o", "policy.onnx")
    export("--algo", "bear", "--env", "Pendulum-v1", "-o", "policy.pt")
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    wanted = model.predict(obs, deterministic=True)[0]
    session = onnxruntime.InferenceSession("policy.onnx")
    np.testing.assert_allclose(session.run(None, {"observation": obs})[0], wanted, atol=1e-5)
    np.testing.assert_allclose(th.jit.load("policy.pt")(th.as_tensor(obs)), wanted, atol=1e-5)


def test_a_run_without_an_environment_is_named_by_its_dataset(tmp_path, capsys, export):
    model = BEAR("MlpPolicy", "Pendulum-v1", policy_kwargs=TINY, device="cpu")
    save_as_the_zoo_does(model, tmp_path, "bear", "robot", {"policy": "MlpPolicy"})
    export("--algo", "bear", "--dataset", "data/robot.npz", "-o", "policy.onnx")
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession("policy.onnx")
    wanted = model.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(session.run(None, {"observation": obs})[0], wanted, atol=1e-5)
    for arguments, message in {
        ("--dataset", "data/robot.npz", "--env", "Pendulum-v1"): "not allowed with argument",
        (): "one of the arguments --env --dataset is required",
        ("--dataset", "data/other.npz"): "train one (sb3-pg-extras train --algo bear --dataset data/other.npz)",
    }.items():
        with pytest.raises(SystemExit):
            export("--algo", "bear", *arguments, "-o", "other.onnx")
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_statistics_are_inside(tmp_path, export):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    env.obs_rms.update(np.random.default_rng(0).normal(3, 2, (50, 3)))
    model = REINFORCE("MlpPolicy", env, device="cpu")
    save_as_the_zoo_does(model, tmp_path, "reinforce", "Pendulum-v1", {"policy": "MlpPolicy", "normalize": True})
    export("--algo", "reinforce", "--env", "Pendulum-v1", "-o", "policy.onnx")
    obs = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    wanted = model.predict(env.normalize_obs(obs), deterministic=True)[0]
    assert np.abs(wanted - model.predict(obs, deterministic=True)[0]).max() > 0.1
    session = onnxruntime.InferenceSession("policy.onnx")
    np.testing.assert_allclose(session.run(None, {"observation": obs})[0], wanted, atol=1e-5)


def test_images_have_the_order_of_axes_that_the_environment_has(tmp_path, monkeypatch, export):
    monkeypatch.setitem(gym.registry, "Camera-v0", gym.envs.registration.EnvSpec("Camera-v0", Camera))
    model = REINFORCE("CnnPolicy", VecFrameStack(DummyVecEnv([Camera]), 2), device="cpu")
    save_as_the_zoo_does(model, tmp_path, "reinforce", "Camera-v0", {"policy": "CnnPolicy", "frame_stack": 2})
    export("--algo", "reinforce", "--env", "Camera-v0", "-o", "policy.onnx")
    obs = np.random.default_rng(0).integers(0, 256, (5, 36, 40, 2), np.uint8)
    wanted = model.predict(obs, deterministic=True)[0]
    session = onnxruntime.InferenceSession("policy.onnx")
    np.testing.assert_allclose(session.run(None, {"observation": obs})[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "policy.pth"], "must end in .onnx or .pt"),
        (["-o", "policy.pt"], "'logs'"),
        (["-o", "x.pt", "--exp-id", "3"], "'logs'"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(tmp_path, capsys, export, arguments, message):
    with pytest.raises(SystemExit):
        export("--algo", "bear", "--env", "Pendulum-v1", *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
