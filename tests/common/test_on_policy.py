"""What REINFORCE and SingleStepA2C do alike."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_pg_extras import REINFORCE, STREAM_PRESET, SingleStepA2C
from sb3_pg_extras.single_step_a2c import StreamPolicy

ALGORITHMS = pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C])
BACKENDS = pytest.mark.parametrize("backend", ["auto", "torch"])
ACTION_SPACES = pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])


class Broken(gym.Env):
    """Episodes of 4 steps; the 10th step gives one NaN, as the reward or in the observation."""

    observation_space = spaces.Box(-9, 9, (3,))

    def __init__(self, broken: str | None = None, action_space: spaces.Space | None = None) -> None:
        self.action_space = action_space or spaces.Discrete(3)
        self.broken, self.actions = broken, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(3, np.float32), {}

    def step(self, action):
        self.actions.append(action)
        n = len(self.actions)
        obs, reward = np.full(3, n % 4, np.float32), 1 / 3 + float(np.sum(action))
        if n == 10 and self.broken == "observations":
            obs[1] = np.nan
        if n == 10 and self.broken == "rewards":
            reward = float("nan")
        return obs, reward, n % 4 == 0, False, {}


@ALGORITHMS
@BACKENDS
@ACTION_SPACES
@pytest.mark.parametrize("broken", ["rewards", "observations"])
def test_what_is_not_finite_is_named_before_it_reaches_weights_or_environment(broken, action_space, backend, algorithm):
    env = Broken(broken, action_space)
    model = algorithm("MlpPolicy", env, backend=backend, seed=0, policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match=rf"^{broken} not finite after \d+ steps"):
        model.learn(200)
    assert all(p.isfinite().all() for p in model.policy.parameters())
    assert np.isfinite(env.actions).all()
    if broken == "observations":
        assert len(env.actions) == 10


class Spoil(BaseCallback):
    """Makes one weight infinite after the last step, where no action would tell."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 8:
            with th.no_grad():
                self.model.policy.value_net.bias.fill_(float("inf"))
        return True


@ALGORITHMS
def test_learn_and_save_refuse_weights_that_are_not_finite(algorithm, tmp_path):
    model = algorithm("MlpPolicy", Broken(), seed=0)
    with pytest.raises(ValueError, match=r"value_net.bias not finite after 8 steps"):
        model.learn(8, callback=Spoil())
    with pytest.raises(ValueError, match=r"value_net.bias not finite"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@ALGORITHMS
@pytest.mark.parametrize("optimizer_class", [th.optim.SGD, th.optim.Adam])
def test_a_learning_rate_that_overflows_is_one_error(algorithm, optimizer_class):
    kwargs = {"critic_learning_rate": 1e30} if algorithm is SingleStepA2C else {"baseline": "value"}
    policy_kwargs = {"optimizer_class": optimizer_class}
    model = algorithm("MlpPolicy", Broken(), learning_rate=1e30, seed=0, policy_kwargs=policy_kwargs, **kwargs)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"(?s)after \d+ steps.*lower the learning rate"):
        model.learn(400)


@ALGORITHMS
@BACKENDS
def test_subprocesses_learn_what_one_process_learns(algorithm, backend):
    """``SubprocVecEnv`` returns rewards in double precision."""

    def weights(vec_env_class, **kwargs):
        env = vec_env_class([lambda: gym.make("Pendulum-v1", max_episode_steps=10)] * 2, **kwargs)
        model = algorithm("MlpPolicy", env, backend=backend, seed=0, policy_kwargs={"net_arch": [8]}).learn(200)
        env.close()
        return th.nn.utils.parameters_to_vector(model.policy.parameters())

    assert th.equal(weights(DummyVecEnv), weights(SubprocVecEnv, start_method="fork"))


# --- policies ---------------------------------------------------------------------------------------------------------

IMAGE, VECTOR = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Box(-1, 1, (3,))


@ALGORITHMS
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("policy", "observation_space", "kwargs"),
    [
        ("MlpPolicy", VECTOR, {"net_arch": [8], "activation_fn": th.nn.ReLU, "ortho_init": False}),
        ("MlpPolicy", VECTOR, {"net_arch": {"pi": [4], "vf": [8, 8]}, "log_std_init": -1.0}),
        ("CnnPolicy", IMAGE, {"features_extractor_kwargs": {"features_dim": 16}}),
        ("MultiInputPolicy", spaces.Dict({"image": IMAGE, "vector": VECTOR}), {"normalize_images": True}),
        ("StreamPolicy", VECTOR, {"layer_norm": False}),
        ("StreamPolicy", spaces.Dict({"image": IMAGE, "vector": VECTOR}), {"sparsity": 0.5}),
    ],
)
def test_a_policy_saved_and_loaded_computes_the_same(policy, observation_space, kwargs, share, algorithm, tmp_path):
    if policy == "StreamPolicy" and algorithm is REINFORCE:
        policy = StreamPolicy

    class Env(Broken):
        def reset(self, **kwargs):
            return self.observation_space.sample(), {}

    Env.observation_space = observation_space
    critic = {"critic_learning_rate": None} if algorithm is SingleStepA2C and share else {}
    kwargs = kwargs | {"share_features_extractor": share}
    model = algorithm(policy, Env(None, spaces.Box(-1, 1, (2,))), seed=0, policy_kwargs=kwargs, **critic)
    with th.no_grad():
        # The extractors differ, as they do after training.
        for p in model.policy.parameters():
            p.add_(0.1 * th.randn_like(p))
    model.policy.save(tmp_path / "policy.pt")
    loaded = type(model.policy).load(tmp_path / "policy.pt", device=model.device)
    obs, _ = model.policy.obs_to_tensor(DummyVecEnv([Env] * 8).reset())
    for one, other in zip(model.policy(obs, deterministic=True), loaded(obs, deterministic=True), strict=True):
        assert th.equal(one, other)


# --- arguments --------------------------------------------------------------------------------------------------------


@ALGORITHMS
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"policy_kwargs": "dict(net_arch=[8])"}, r"policy_kwargs='dict\(net_arch=\[8\]\)': must be a dict"),
        ({"learning_rate": None}, "learning_rate=None: must be a number"),
        ({"env": None}, "env=None: .* needs an environment"),
    ],
)
def test_wrong_arguments_are_named_early(algorithm, kwargs, words):
    with pytest.raises(ValueError, match=words):
        algorithm("MlpPolicy", **{"env": Broken(), **kwargs})


@ALGORITHMS
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("100",), "total_timesteps='100': must be a number"),
        ((-1,), "total_timesteps=-1: must be a number of at least 0"),
        ((10, None, 0), "log_interval=0: must be an integer of at least 1"),
        ((10, None, 0.5), "log_interval=0.5: must be an integer"),
    ],
)
def test_wrong_arguments_of_learn_are_named(algorithm, args, words):
    with pytest.raises(ValueError, match=words):
        algorithm("MlpPolicy", Broken()).learn(*args)


@ALGORITHMS
def test_a_model_is_loaded_with_the_policy_kwargs_of_its_constructor(algorithm, tmp_path):
    kwargs = {"net_arch": [8]}
    model = algorithm("MlpPolicy", Broken(), policy_kwargs=kwargs)
    assert model.policy_kwargs == kwargs
    model.save(tmp_path / "model")
    algorithm.load(tmp_path / "model", policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        algorithm.load(tmp_path / "model", policy_kwargs={"net_arch": [4]})


def test_the_stream_preset_with_another_policy_is_named():
    with pytest.raises(ValueError, match=r"critic_optimizer_kwargs=\{'kappa': 2.0\}.*STREAM_PRESET is for StreamPolicy"):
        SingleStepA2C("MlpPolicy", Broken(), **STREAM_PRESET)


@pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C])
def test_learning_without_an_environment_is_refused(algorithm, tmp_path):
    algorithm("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match="has no environment: pass env= to load"):
        algorithm.load(tmp_path / "model").learn(10)


@ALGORITHMS
@pytest.mark.parametrize("max_grad_norm", [None, math.inf, 0.5])
def test_no_bound_of_the_gradient_may_be_said_in_two_ways(algorithm, max_grad_norm):
    algorithm("MlpPolicy", Broken(), max_grad_norm=max_grad_norm, seed=0, policy_kwargs={"net_arch": [8]}).learn(8)


@ALGORITHMS
def test_squashed_actions_are_scaled_to_the_environments(algorithm):
    space = spaces.Box(-4, 2, (1,))
    model = algorithm("MlpPolicy", Broken(None, space), use_sde=True, policy_kwargs={"squash_output": True}, seed=0)
    actions = np.array([[-1.0], [0.0], [1.0]], np.float32)
    np.testing.assert_allclose(model._environment_actions(actions), [[-4], [-1], [2]], atol=1e-6)
