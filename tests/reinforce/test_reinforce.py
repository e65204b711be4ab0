"""REINFORCE: its gradient against exact ones, both backends, its loop on every kind of space."""

import math
import warnings
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import Dropping
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from torch_calls import torch_calls

from sb3_pg_extras import REINFORCE
from sb3_pg_extras.common import policy_gradients

SMALL = {"net_arch": [8]}


# --- small worlds -----------------------------------------------------------------------------------------------------


class Graph(gym.Env):
    """
    Three states in a row, whose actions decide how long the episode is. Action 0 in state 0 ends it with reward 1, in state
    1 with reward 0; action 1 goes on; in state 2 the episode ends with reward 2 for action 1 and -1 for action 0.
    """

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action):
        if self.state == 2:
            return 2, 2.0 if action == 1 else -1.0, True, False, {}
        if action == 0:
            return self.state, float(self.state == 0), True, False, {}
        self.state += 1
        return self.state, 0.0, False, False, {}


class FixedLength(gym.Env):
    """Random observations, reward from observation and action, always 6 steps; terminal or truncated at the end."""

    def __init__(self, action_space: spaces.Space, truncated: bool = False) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (3,)), action_space
        self.truncated = truncated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.state = 0, self.np_random.normal(size=3).astype(np.float32)
        return self.state, {}

    def step(self, action):
        self.t += 1
        reward = float(np.sum(self.state) * np.sum(action))
        self.state = self.np_random.normal(size=3).astype(np.float32)
        return self.state, reward, self.t == 6 and not self.truncated, self.t == 6 and self.truncated, {}


def graph_model(n_envs: int, **kwargs) -> REINFORCE:
    model = REINFORCE(
        "MlpPolicy", DummyVecEnv([Graph] * n_envs), policy_kwargs={"net_arch": []}, gamma=1.0, seed=0,
        normalize_advantage=False, device="cpu", **kwargs,
    )  # fmt: skip
    with th.no_grad():
        # One logit per state and action: the features are one-hot states.
        model.policy.action_net.bias.zero_()
        model.policy.action_net.weight.copy_(th.tensor([[0.2, -0.3, 0.1], [-0.1, 0.4, 0.5]]))
    return model


def exact_gradient(model: REINFORCE) -> np.ndarray:
    """Gradient of the expected return in the logits, by automatic differentiation of its closed form."""
    logits = model.policy.action_net.weight.detach().clone().requires_grad_(True)
    p = th.softmax(logits, dim=0)
    value = p[0, 0] * 1 + p[1, 0] * (p[0, 1] * 0 + p[1, 1] * (2 * p[1, 2] - p[0, 2]))
    value.backward()
    return logits.grad.numpy().flatten()


def batch_gradient(model: REINFORCE, credit: str) -> np.ndarray:
    """Sum over the batch of grad log pi(a|s) psi, in the logits: for a softmax (onehot(a) - pi(.|s)) psi at state s."""
    batch = model.rollout_buffer.get_samples()
    states, actions = batch.observations.flatten().long(), batch.actions.long()
    returns = batch.returns_to_go if credit == "reward_to_go" else batch.episode_returns
    weights = policy_gradients.advantages(returns, batch.timesteps, 1.0)
    probabilities = th.softmax(model.policy.action_net.weight.detach(), dim=0).T[states]
    score = (th.nn.functional.one_hot(actions, 2) - probabilities) * weights.unsqueeze(1)
    return th.zeros(3, 2).index_add(0, states, score).T.numpy().flatten()


def prepare(model: REINFORCE) -> tuple:
    _, callback = model._setup_learn(10**9, None)
    callback.on_training_start({}, {})
    return model.env, callback, model.rollout_buffer, model.n_steps


@pytest.mark.parametrize(
    ("n_envs", "n_episodes", "n_steps"), [(1, 3, 0), (1, 1, 6), (4, 4, 0), (4, 6, 0), (4, 1, 0), (3, 1, 10)]
)
def test_estimators_are_unbiased(n_envs, n_episodes, n_steps):
    """Over many batches, the sum of gradients is the number of episodes times the exact gradient (Wald's identity)."""
    model = graph_model(n_envs, n_episodes=n_episodes, n_steps=n_steps)
    arguments, exact, gradients, n_played = prepare(model), exact_gradient(model), [], []
    for _ in range(1500):
        assert model.collect_rollouts(*arguments)
        gradients.append([batch_gradient(model, credit) for credit in ("reward_to_go", "episode")])
        n_played.append(model._n_started)
    differences = np.array(gradients) - np.array(n_played)[:, None, None] * exact
    standard_errors = differences.std(axis=0) / np.sqrt(len(differences))
    assert np.abs(differences.mean(axis=0) / standard_errors).max() < 4.5
    # The test has power: the exact gradient is many standard errors long.
    assert np.abs(exact * np.mean(n_played)).max() > 8 * standard_errors.max()
    if n_steps == 0:
        assert set(n_played) == {n_episodes}


def test_taking_the_first_episodes_to_finish_is_biased():
    """The naive scheme with several environments, which the test above would reject."""
    model = graph_model(4)
    exact, env = exact_gradient(model), model.env
    probabilities = th.softmax(model.policy.action_net.weight.detach(), dim=0).numpy()
    rng, differences = np.random.default_rng(0), []
    for _ in range(3000):
        obs, finished, running = env.reset(), [], [[] for _ in range(4)]
        while len(finished) < 4:
            actions = (rng.random(4) < probabilities[1, obs]).astype(int)
            following, rewards, dones, _ = env.step(actions)
            for index in range(4):
                running[index].append((obs[index], actions[index], rewards[index]))
                if dones[index]:
                    finished.append(running[index])
                    running[index] = []
            obs = following
        gradient = np.zeros((2, 3))
        for episode in finished[:4]:
            for state, action, _ in episode:
                gradient[:, state] += (np.eye(2)[action] - probabilities[:, state]) * sum(r for _, _, r in episode)
        differences.append(gradient.flatten() - 4 * exact)
    error = np.mean(differences, axis=0) / (np.std(differences, axis=0) / np.sqrt(len(differences)))
    assert np.abs(error).max() > 10


def test_gradient_equals_the_softmax_policy_gradient_on_a_two_armed_bandit():
    class Bandit(gym.Env):
        observation_space, action_space = spaces.Box(1, 1, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.ones(1, np.float32), {}

        def step(self, action):
            return np.ones(1, np.float32), (3.0, -2.0)[action], True, False, {}

    model = REINFORCE(
        "MlpPolicy", Bandit(), learning_rate=1.0, n_episodes=10, normalize_advantage=False, max_grad_norm=None, seed=1,
        policy_kwargs={"net_arch": [], "optimizer_class": th.optim.SGD}, device="cpu",
    )  # fmt: skip
    model.collect_rollouts(*prepare(model))
    model.set_logger(configure(None, []))
    actions = model.rollout_buffer.get_samples().actions.numpy()
    assert 0 < actions.sum() < 10
    net = model.policy.action_net
    probabilities = th.softmax(net(th.ones(1, 1)), dim=1).detach().numpy()[0]
    before = net.bias.detach().numpy().copy()
    model.train()
    rewards = np.where(actions == 0, 3.0, -2.0)[:, np.newaxis]
    expected = ((np.eye(2)[actions] - probabilities) * rewards).mean(axis=0)
    np.testing.assert_allclose(net.bias.detach().numpy() - before, expected, atol=1e-6)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
@pytest.mark.parametrize("truncated", [False, True])
def test_with_a_value_baseline_it_is_a2c_on_whole_episodes(n_envs, action_space, truncated):
    """Same seed, same draws, same optimiser: the same parameters after 5 updates."""
    env = [DummyVecEnv([lambda: FixedLength(action_space, truncated)] * n_envs) for _ in range(2)]
    kwargs = {"gamma": 0.9, "ent_coef": 0.01, "vf_coef": 0.4, "max_grad_norm": 0.7, "seed": 3, "device": "cpu"}
    a2c = A2C("MlpPolicy", env[0], n_steps=6, gae_lambda=1.0, **kwargs).learn(6 * n_envs * 5)
    rms_prop = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0}}
    kwargs |= {"n_episodes": n_envs, "baseline": "value", "normalize_advantage": False, "policy_kwargs": rms_prop}
    ours = REINFORCE("MlpPolicy", env[1], learning_rate=7e-4, backend="torch", **kwargs).learn(6 * n_envs * 5)
    assert ours._n_updates == a2c._n_updates == 5
    for (name, theirs), mine in zip(a2c.policy.named_parameters(), ours.policy.parameters(), strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def last_episodes_returns(baseline: str | None, wrapper=lambda env: env) -> th.Tensor:
    """The returns of one episode of 6 steps that a time limit cuts, where V is 64 everywhere."""
    env = wrapper(DummyVecEnv([lambda: FixedLength(spaces.Discrete(2), truncated=True)]))
    model = REINFORCE("MlpPolicy", env, baseline=baseline, n_episodes=1, gamma=0.5, seed=0)
    with th.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(64.0)
    model.collect_rollouts(*prepare(model))
    returns = model.rollout_buffer.get_samples().returns_to_go
    model.set_logger(configure(None, []))
    for _ in range(2):
        model.train()
        # Learning from the same episodes again bootstraps once all the same.
        assert th.equal(model.rollout_buffer.get_samples().returns_to_go, returns)
    return returns


def test_time_limit_bootstraps_with_a_value_baseline_only():
    plain = last_episodes_returns(None)
    th.testing.assert_close(last_episodes_returns("mean"), plain)
    # gamma^6 V, gamma^5 V, ... gamma V.
    th.testing.assert_close(last_episodes_returns("value") - plain, th.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))


def test_a_time_limit_without_the_last_observation_is_terminal_as_in_sb3():
    class Forgetful(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            obs, rewards, dones, infos = self.venv.step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return obs, rewards, dones, infos

    assert th.equal(last_episodes_returns("value", Forgetful), last_episodes_returns(None))


# --- acting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
def test_both_backends_take_the_same_actions_and_the_log_names_numpy(action_space, capsys):
    def train(backend):
        model = REINFORCE("MlpPolicy", FixedLength(action_space), n_episodes=2, backend=backend, seed=3, verbose=1).learn(60)
        return model, "Using the NumPy backend" in capsys.readouterr().out

    (ours, ours_named), (oracle, oracle_named) = train("auto"), train("torch")
    assert ours_named and not oracle_named and ours._n_updates == oracle._n_updates == 5
    for mine, theirs in zip(ours.policy.parameters(), oracle.policy.parameters(), strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_single_number_is_learnt_like_an_array_of_one(backend):
    def train(shape):
        env = FixedLength(spaces.Box(-1, 1, shape))
        return REINFORCE("MlpPolicy", env, n_episodes=2, backend=backend, seed=3, policy_kwargs=SMALL).learn(60)

    number, array = train(()), train((1,))
    for one, other in zip(number.policy.parameters(), array.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*without an update")
def test_acting_calls_torch_for_the_draw_only():
    """The gate for speed that needs no clock: what 50 more steps of a rollout call of PyTorch."""

    def calls(n_steps, backend):
        model = REINFORCE("MlpPolicy", "CartPole-v1", n_steps=1_000, backend=backend, seed=0, device="cpu")
        return torch_calls(lambda: model.learn(n_steps))

    assert calls(100, "auto") - calls(50, "auto") == {"exponential_": 50, "data_ptr": 50}
    # And it counts.
    assert (calls(100, "torch") - calls(50, "torch")).total() > 50 * 50


class Recorder(gym.Wrapper):
    """Notes what it showed and what it was given: (observation, action) of every step."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []

    def reset(self, **kwargs):
        self.obs, info = self.env.reset(**kwargs)
        return self.obs, info

    def step(self, action):
        self.steps.append((self.obs, np.array(action)))
        self.obs, *rest = self.env.step(action)
        return self.obs, *rest


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
def test_the_batch_holds_each_observation_with_the_action_drawn_for_it(action_space, backend):
    """So the log-probabilities of the update are those of the distributions that acted."""
    envs = [Recorder(FixedLength(action_space)) for _ in range(2)]
    model = REINFORCE(
        "MlpPolicy", DummyVecEnv([lambda env=env: env for env in envs]), n_episodes=4, backend=backend, seed=0, device="cpu"
    )
    model.collect_rollouts(*prepare(model))
    batch = model.rollout_buffer.get_samples()
    observations, actions = (np.stack(column) for column in zip(*envs[0].steps, *envs[1].steps, strict=True))
    np.testing.assert_array_equal(batch.observations, observations)
    drawn = batch.actions.numpy()
    if isinstance(action_space, spaces.Box):
        # The environment gets the clipped action, the batch the one that was drawn.
        assert (np.abs(drawn) > 1).any()
        drawn = np.clip(drawn, -1, 1)
    np.testing.assert_array_equal(drawn, actions)


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2,)),
        spaces.Box(0, 1, (2, 2)),
    ],
)
@pytest.mark.parametrize("baseline", [None, "mean", "value"])
def test_every_action_space(action_space, baseline):
    env = DummyVecEnv([lambda: FixedLength(action_space)] * 2)
    model = REINFORCE("MlpPolicy", env, n_episodes=3, baseline=baseline, seed=0, policy_kwargs=SMALL).learn(100)
    assert model._n_updates >= 2
    assert action_space.contains(model.predict(np.zeros(3, np.float32))[0])


def test_gsde():
    model = REINFORCE("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=4, n_episodes=1, policy_kwargs=SMALL).learn(
        400
    )
    assert model._n_updates == 2


def test_cnn_and_multi_input_policies():
    class Pictures(gym.Env):
        action_space = spaces.Discrete(2)

        def __init__(self, both: bool) -> None:
            image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
            self.observation_space = spaces.Dict(image=image, speed=spaces.Box(-1, 1, (2,))) if both else image

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action):
            self.t += 1
            return self.observation_space.sample(), 1.0, False, self.t == 3, {}

    for policy, both in (("CnnPolicy", False), ("MultiInputPolicy", True)):
        model = REINFORCE(policy, DummyVecEnv([lambda both=both: Pictures(both)] * 2), n_episodes=3, baseline="value").learn(
            20
        )
        assert model._n_updates >= 1


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_envs", "n_episodes", "n_steps", "episodes"), [(1, 2, 0, 2), (1, 1, 13, 3), (3, 2, 0, 2), (3, 4, 0, 4), (2, 1, 13, 4)]
)
def test_quotas(n_envs, n_episodes, n_steps, episodes):
    """Episodes of 6 steps: as many are started as the quotas ask for, each ends, and the batch holds exactly those."""
    env = DummyVecEnv([lambda: FixedLength(spaces.Discrete(2))] * n_envs)
    model = REINFORCE("MlpPolicy", env, n_episodes=n_episodes, n_steps=n_steps, seed=0, policy_kwargs=SMALL)
    arguments = prepare(model)
    for _ in range(3):
        model.collect_rollouts(*arguments)
        batch = model.rollout_buffer.get_samples()
        assert model._n_started == episodes
        assert batch.timesteps.tolist() == list(range(6)) * episodes


def test_every_episode_of_a_batch_starts_with_a_reset():
    """Environments that were stepped along without a part in the batch are reset before the next."""

    class Clock(FixedLength):
        def reset(self, **kwargs):
            super().reset(**kwargs)
            return np.zeros(3, np.float32), {}

        def step(self, action):
            _, *rest = super().step(action)
            return np.full(3, self.t / 10, np.float32), *rest

    # The first environment's episodes are longer: the other idles, and is in the middle of an episode in the end.
    env = DummyVecEnv([lambda: TimeLimit(Clock(spaces.Discrete(2)), 6), lambda: TimeLimit(Clock(spaces.Discrete(2)), 4)])
    model = REINFORCE("MlpPolicy", env, n_episodes=2, seed=0, policy_kwargs=SMALL)
    arguments = prepare(model)
    for _ in range(3):
        model.collect_rollouts(*arguments)
        batch = model.rollout_buffer.get_samples()
        assert batch.timesteps.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
        np.testing.assert_allclose(batch.observations[:, 0], batch.timesteps / 10)


class Endless(FixedLength):
    def step(self, action):
        self.t = 0
        return super().step(action)


def test_an_environment_that_never_ends_stops_at_the_budget_and_says_so():
    model = REINFORCE("MlpPolicy", Endless(spaces.Discrete(2)), seed=0, policy_kwargs=SMALL)
    with pytest.warns(UserWarning, match=r"without an update: 0 episode.*TimeLimit"):
        model.learn(50)
    assert model.num_timesteps == 50
    assert model._n_updates == 0
    with pytest.warns(UserWarning, match="without an update"):
        model.learn(50, reset_num_timesteps=False)
    assert model.rollout_buffer.size() == 100  # the episode goes on


def test_callbacks_read_the_batch_by_the_names_of_sb3():
    """Two environments, three episodes of 6 steps: the second environment plays one, and idles for the other."""
    batches = []

    class Read(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            batches.append((buffer.rewards, buffer.actions, buffer.returns, buffer.get_samples()))

    env = DummyVecEnv([lambda: FixedLength(spaces.Box(-1, 1, (2,)))] * 2)
    REINFORCE("MlpPolicy", env, n_episodes=3, gamma=0.5, seed=0, policy_kwargs=SMALL).learn(24, callback=Read())
    ((rewards, actions, returns, samples),) = batches
    assert rewards.shape == returns.shape == (12, 2) and actions.shape == (12, 2, 2)
    assert (returns[5] == rewards[5]).all() and returns[4, 0] == rewards[4, 0] + 0.5 * rewards[5, 0]
    assert (returns[6:, 1] == 0).all()
    np.testing.assert_allclose(np.concatenate([returns[:, 0], returns[:6, 1]]), samples.returns_to_go, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([actions[:, 0], actions[:6, 1]]), samples.actions)


def test_episodes_are_held_between_two_calls_of_learn():
    def learn(*parts):
        model = REINFORCE("MlpPolicy", FixedLength(spaces.Discrete(2)), n_episodes=2, seed=0, policy_kwargs=SMALL)
        for index, part in enumerate(parts):
            model.learn(part, reset_num_timesteps=index == 0)
        return th.nn.utils.parameters_to_vector(model.policy.parameters())

    whole = learn(48)
    th.testing.assert_close(learn(15, 33), whole, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="without an update"):
        th.testing.assert_close(learn(5, 43), whole, rtol=0, atol=0)


@pytest.mark.parametrize("steps", [4, 16, 30])
def test_a_model_saved_in_mid_batch_goes_on_as_if_it_had_never_stopped(steps, tmp_path):
    """Batches are of 12 steps of 2 environments: cut in the first episode, between two, and in the second batch."""
    env = make_vec_env(lambda: FixedLength(spaces.Box(-1, 1, (2,))), 2, seed=0)
    model = REINFORCE("MlpPolicy", env, n_episodes=4, gamma=0.9, seed=0, policy_kwargs=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # No update yet.
        model.learn(steps)
    model.save(tmp_path / "model")
    envs = deepcopy(model.env), deepcopy(model.env)
    loaded = REINFORCE.load(tmp_path / "model", env=envs[0], force_reset=False)
    assert loaded.rollout_buffer.size() == model.rollout_buffer.size()
    # An environment that starts anew cannot go on with its episodes.
    anew = REINFORCE.load(tmp_path / "model", env=envs[1])
    updates = []
    for one in (model, loaded, anew):
        th.manual_seed(1)
        one.learn(50, reset_num_timesteps=False)
        updates.append((one._n_updates, th.nn.utils.parameters_to_vector(one.policy.parameters())))
    assert updates[0][0] == updates[1][0] and th.equal(updates[0][1], updates[1][1])
    assert not th.equal(updates[0][1], updates[2][1])


def test_a_complete_batch_is_not_saved(tmp_path):
    model = REINFORCE("MlpPolicy", FixedLength(spaces.Discrete(2)), n_episodes=2, seed=0, policy_kwargs=SMALL).learn(12)
    assert model._n_updates == 1 and model.rollout_buffer.size() == 12
    model.save(tmp_path / "model")
    assert REINFORCE.load(tmp_path / "model", env=model.env).rollout_buffer.size() == 0


def test_starting_afresh_forgets_the_episodes_that_were_held():
    model = REINFORCE("MlpPolicy", FixedLength(spaces.Discrete(2)), n_episodes=2, seed=0, policy_kwargs=SMALL).learn(15)
    assert model.rollout_buffer.size() == 3
    with pytest.warns(UserWarning, match="without an update"):
        model.learn(4)
    assert model.rollout_buffer.size() == 4


def test_a_callback_stops_the_training():
    model = REINFORCE("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs=SMALL)
    model.learn(1000, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 7)
    assert model.num_timesteps == 7


def test_callbacks_and_log(tmp_path):
    model = REINFORCE("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), n_episodes=4, seed=0, policy_kwargs=SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callbacks = [
        EvalCallback(
            make_vec_env("CartPole-v1"), eval_freq=200, n_eval_episodes=2, verbose=0, best_model_save_path=str(tmp_path)
        ),
        CheckpointCallback(100, str(tmp_path)),
    ]
    model.learn(1000, callback=callbacks, log_interval=1, progress_bar=True)
    assert (tmp_path / "best_model.zip").exists()
    assert (tmp_path / "rl_model_200_steps.zip").exists()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"rollout/ep_rew_mean", "train/policy_loss", "train/entropy_loss", "train/batch_steps", "time/fps"} <= set(header)
    assert len(model.ep_info_buffer) > 4


def test_learns_a_bandit_of_two_states():
    """Reward for the action that the state names: solved in a few hundred episodes with each baseline and both credits."""

    class Match(gym.Env):
        observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t, self.state = 0, int(self.np_random.integers(2))
            return self.state, {}

        def step(self, action):
            reward, self.t, self.state = float(action == self.state), self.t + 1, int(self.np_random.integers(2))
            return self.state, reward, self.t == 4, False, {}

    for kwargs in ({}, {"baseline": "mean"}, {"baseline": "value"}, {"credit": "episode"}, {"discount_weighting": True}):
        model = REINFORCE(
            "MlpPolicy", make_vec_env(Match, n_envs=4), learning_rate=1e-2, seed=0, policy_kwargs=SMALL, **kwargs
        )
        model.learn(6000)
        assert evaluate_policy(model, make_vec_env(Match, seed=1), n_eval_episodes=20)[0] == 4.0, kwargs


@pytest.mark.parametrize(
    ("credit", "discount_weighting"), [("reward_to_go", False), ("reward_to_go", True), ("episode", False)]
)
@pytest.mark.parametrize("baseline", [None, "mean", "value"])
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_every_switch_does_to_the_update_what_it_says(credit, baseline, discount_weighting, normalize_advantage):
    """One step of SGD with learning rate 1 moves the actor by its gradient, written out here."""
    gamma, sgd = 0.8, {"net_arch": [], "optimizer_class": th.optim.SGD}
    model = REINFORCE(
        "MlpPolicy", FixedLength(spaces.Discrete(2)), learning_rate=1.0, n_episodes=2, gamma=gamma, max_grad_norm=None,
        credit=credit, baseline=baseline, discount_weighting=discount_weighting, normalize_advantage=normalize_advantage,
        seed=0, policy_kwargs=sgd,
    )  # fmt: skip
    model.collect_rollouts(*prepare(model))
    model.set_logger(configure(None, []))
    batch = model.rollout_buffer.get_samples()
    rewards = batch.observations.sum(dim=1) * batch.actions
    psi = []
    for episode in (rewards[:6], rewards[6:]):
        for t in range(6):
            start = t if credit == "reward_to_go" else 0
            psi.append(sum(gamma ** (k - start) * episode[k] for k in range(start, 6)))
    psi = th.stack(psi)
    if baseline is not None:
        psi = psi - (psi.mean() if baseline == "mean" else model.policy.predict_values(batch.observations).flatten())
    if discount_weighting:
        psi = psi * th.tensor([gamma**t for t in range(6)] * 2)
    if normalize_advantage:
        psi = (psi - psi.mean()) / psi.std(unbiased=False)
    log_prob = model.policy.get_distribution(batch.observations).log_prob(batch.actions)
    weight = model.policy.action_net.weight
    (expected,) = th.autograd.grad((log_prob * psi.detach()).mean(), weight)
    before = weight.detach().clone()
    model.train()
    th.testing.assert_close(weight.detach() - before, expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-3


# --- saving, seeds, wrappers ------------------------------------------------------------------------------------------


def test_save_load_and_seeds(tmp_path):
    def train(seed):
        env = make_vec_env("CartPole-v1", n_envs=2, seed=seed)
        return REINFORCE("MlpPolicy", env, seed=seed, n_episodes=4, policy_kwargs=SMALL).learn(600)

    def vector(model):
        return th.nn.utils.parameters_to_vector(model.policy.parameters())

    model = train(0)
    assert th.equal(vector(model), vector(train(0)))
    assert not th.equal(vector(model), vector(train(1)))
    model.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    assert th.equal(vector(model), vector(loaded))
    optimizer_state = loaded.policy.optimizer.state_dict()["state"][0]
    th.testing.assert_close(optimizer_state["exp_avg"], model.policy.optimizer.state_dict()["state"][0]["exp_avg"])
    assert loaded.learn(400, reset_num_timesteps=False).num_timesteps == model.num_timesteps + 400
    enjoying = REINFORCE.load(tmp_path / "model", custom_objects={"learning_rate": 0.0, "lr_schedule": lambda _: 0.0})
    obs = np.zeros((5, 4), np.float32)
    np.testing.assert_array_equal(enjoying.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    other = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs=SMALL)
    other.set_parameters(model.get_parameters())
    assert th.equal(vector(other), vector(model))


def test_vec_normalize_and_set_env():
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2), gamma=0.99)
    model = REINFORCE("MlpPolicy", env, n_episodes=2, seed=0, policy_kwargs=SMALL).learn(800)
    assert env.obs_rms.count > 800
    assert model.get_vec_normalize_env() is env
    model.set_env(make_vec_env("Pendulum-v1", n_envs=2))
    model.learn(400, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"credit": "future"}, ["credit", "future"]),
        ({"baseline": "median"}, ["baseline", "median"]),
        ({"credit": "episode", "discount_weighting": True}, ["discount_weighting=True", 'credit="episode"']),
        ({"n_episodes": 0}, ["n_episodes", "0"]),
        ({"n_steps": -1}, ["n_steps", "-1"]),
        ({"gamma": 1.5}, ["gamma", "1.5"]),
        ({"backend": "numpy"}, ["backend", "numpy"]),
        ({"n_episodes": "8"}, ["n_episodes='8'", "an integer"]),
        ({"n_episodes": 1.5}, ["n_episodes=1.5", "an integer of at least 1"]),
        ({"gamma": None}, ["gamma=None", "a number"]),
        ({"ent_coef": "1e-3"}, ["ent_coef='1e-3'", "!!float 1e-3"]),
        ({"max_grad_norm": -0.5}, ["max_grad_norm=-0.5", "at least 0"]),
    ],
)
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError) as error:
        REINFORCE("MlpPolicy", "CartPole-v1", **kwargs)
    for word in words:
        assert word in str(error.value)


# --- what callbacks may change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_callback_may_replace_the_memory_of_parameters(backend):
    model, actions = REINFORCE("MlpPolicy", "CartPole-v1", n_episodes=20, backend=backend, device="cpu"), []

    def replace(locals_, _):
        if model.num_timesteps == 5:
            model.policy.load_from_vector(model.policy.parameters_to_vector() * 0)
            with th.no_grad():
                model.policy.action_net.bias[1] = 50.0
        elif model.num_timesteps > 5:
            actions.append(locals_["actions"][0])
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(60, callback=replace)
    assert set(actions) == {1}


@pytest.mark.parametrize("baseline", [None, "value"])
def test_rewards_that_a_callback_changes_are_learnt_from(baseline):
    """As in A2C; the value that a time limit adds stays."""

    def rewards(shape: bool) -> np.ndarray:
        env = FixedLength(spaces.Discrete(2), truncated=True)
        model = REINFORCE("MlpPolicy", TimeLimit(env, 6), n_episodes=1, gamma=0.5, baseline=baseline, seed=0, device="cpu")

        def change(locals_, _):
            if shape:
                locals_["rewards"][:] = 100.0
            return True

        model.learn(6, callback=change)
        return model.rollout_buffer.rewards[:, 0]

    shaped, plain = rewards(True), rewards(False)
    assert shaped[:-1].tolist() == [100.0] * 5 and plain[:-1].tolist() != [100.0] * 5
    assert (shaped[-1] == 100.0) == (baseline is None)


def test_copies_of_the_buffer_are_read_only():
    model = REINFORCE("MlpPolicy", FixedLength(spaces.Discrete(2)), n_episodes=1, device="cpu").learn(6)
    for copy in (model.rollout_buffer.rewards, model.rollout_buffer.returns):
        with pytest.raises(ValueError, match="read-only"):
            copy[:] = 0.0


def fixed(n_envs: int = 1, space=None, **kwargs) -> REINFORCE:
    env = DummyVecEnv([lambda: FixedLength(space or spaces.Discrete(2))] * n_envs)
    return REINFORCE("MlpPolicy", env, seed=0, device="cpu", **{"policy_kwargs": SMALL} | kwargs)


def logged(model: REINFORCE) -> dict:
    """The figures of one update."""
    model.set_logger(configure(None, []))
    model.collect_rollouts(*prepare(model))
    model.set_logger(configure(None, []))
    model.train()
    return dict(model.logger.name_to_value)


def test_the_defaults():
    model = REINFORCE("MlpPolicy", "CartPole-v1")
    assert (model.learning_rate, model.n_episodes, model.n_steps, model.gamma) == (3e-3, 8, 0, 0.99)
    assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.0, 0.5, 0.5)


def test_the_learning_rate_follows_its_schedule():
    model = fixed(n_episodes=2, learning_rate=lambda progress: progress).learn(24)
    assert model._n_updates == 2
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert fixed(n_episodes=2, learning_rate=lambda progress: progress).learn(18).policy.optimizer.param_groups[0][
        "lr"
    ] == pytest.approx(1 - 12 / 18)


def test_figures_of_the_log_by_hand():
    """Two environments, three episodes of six steps: one of them idles for six."""
    model = fixed(2, n_episodes=3, baseline="value")
    figures = logged(model)
    assert (figures["train/batch_episodes"], figures["train/batch_steps"]) == (3, 18)
    model = fixed(2, n_episodes=3, baseline="value")
    for _ in range(2):
        figures = logged(model)
    assert figures["train/batch_episodes"] == 3
    assert math.isfinite(figures["train/explained_variance"])


def test_explained_variance_is_of_the_returns():
    model = fixed(n_episodes=2, baseline="value")
    with th.no_grad():
        model.policy.value_net.weight.zero_()  # V is the same everywhere and explains nothing
    assert logged(model)["train/explained_variance"] == pytest.approx(0.0, abs=1e-6)


def test_the_values_are_those_of_returns_to_go_whatever_the_credit():
    losses = []
    for credit in ("reward_to_go", "episode"):
        figures = logged(fixed(n_episodes=2, baseline="value", credit=credit))
        losses.append(figures["train/value_loss"])
    assert losses[0] == losses[1]


def test_an_entropy_without_a_closed_form_is_estimated():
    """gSDE that squashes its actions has none: minus the mean log-probability of what was drawn."""
    model = fixed(space=spaces.Box(-1, 1, (1,)), n_episodes=4, use_sde=True, policy_kwargs=SMALL | {"squash_output": True})
    model.collect_rollouts(*prepare(model))
    batch = model.rollout_buffer.get_samples()
    _, log_prob, entropy = model.policy.evaluate_actions(batch.observations, batch.actions)
    assert entropy is None
    model.set_logger(configure(None, []))
    model.train()
    assert model.logger.name_to_value["train/entropy_loss"] == pytest.approx(log_prob.mean().item(), rel=1e-5)


def test_nothing_is_dropped_while_it_acts_only_while_it_learns():
    modes = {"acting": set(), "learning": set()}

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            modes["acting"].add(self.model.policy.training)
            return True

    model = fixed(n_episodes=2, policy_kwargs=SMALL | {"features_extractor_class": Dropping})
    evaluate = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda *args: modes["learning"].add(model.policy.training) or evaluate(*args)
    model.learn(36, callback=Watch())
    assert modes == {"acting": {False}, "learning": {True}}


@pytest.mark.parametrize(("sde_sample_freq", "lengths"), [(-1, [12, 12]), (4, [4, 4, 4, 4, 4, 4])])
def test_gsde_draws_a_new_noise_matrix_for_each_batch_and_now_and_then(sde_sample_freq, lengths):
    """Batches of two episodes of six steps."""
    matrices: list[th.Tensor] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            matrices.append(self.model.policy.action_dist.exploration_mat.clone())
            return True

    fixed(space=spaces.Box(-1, 1, (1,)), n_episodes=2, use_sde=True, sde_sample_freq=sde_sample_freq).learn(24, Watch())
    new = [i for i in range(1, 24) if not th.equal(matrices[i], matrices[i - 1])]
    assert np.diff([0, *new, 24]).tolist() == lengths


def test_a_quota_of_steps_that_is_met_exactly_starts_no_further_episode():
    model = fixed(n_episodes=1, n_steps=12)
    model.collect_rollouts(*prepare(model))
    assert model._n_started == 2


def test_the_rate_of_success_is_counted():
    class Succeeds(FixedLength):
        def step(self, action):
            *step, _ = super().step(action)
            return *step, {"is_success": True}

    model = REINFORCE("MlpPolicy", DummyVecEnv([lambda: Succeeds(spaces.Discrete(2))]), n_episodes=2, seed=0).learn(12)
    assert list(model.ep_success_buffer) == [True, True]


def test_the_warning_counts_the_episodes_of_this_call():
    model = fixed(n_episodes=2).learn(12)
    with pytest.warns(UserWarning, match=r"without an update: 1 episode\(s\) ended"):
        model.learn(7, reset_num_timesteps=False)


def test_a_batch_of_more_environments_is_not_gone_on_with(tmp_path):
    model = fixed(2, n_episodes=4)
    with pytest.warns(UserWarning, match="without an update"):
        model.learn(4)
    model.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model", env=fixed(3).env, device="cpu")
    assert loaded.rollout_buffer.size() == 0
