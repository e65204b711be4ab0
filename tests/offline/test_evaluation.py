"""Fitted Q evaluation: golden values on small MDPs, any policy and space, the callback, wrong input."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch as th
from conftest import TINY, Dropping, make_arrays
from gymnasium import spaces
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tqdm import tqdm

from sb3_pg_extras import BC, BEAR, FQE, TD3BC, DatasetError, FQECallback, OfflineDataset, load_dataset
from sb3_pg_extras.offline import evaluation
from sb3_pg_extras.offline.evaluation import Value, evaluate_offline, fqe_target, offline_figures
from sb3_pg_extras.offline.sources import DatasetEnv

PENDULUM = "bundled:pendulum-mixed-v0"
GAMMA = 0.9


class Table:
    """A policy of a small MDP: the probability of action 1 in each state."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def __init__(self, *probabilities: float) -> None:
        self.probabilities = np.array(probabilities)
        self.rng = np.random.default_rng(0)

    def predict(self, observations, deterministic=False):
        chances = self.probabilities[observations]
        return np.where(deterministic, chances > 0.5, self.rng.random(len(chances)) < chances).astype(np.int64), None

    def get_vec_normalize_env(self):
        return None


def chain(n_episodes: int = 150, time_limit: int | None = None) -> OfflineDataset:
    """
    Three states. Action 1 moves right, action 0 stays, each for the reward of its state (0, 1, 2); right of the last state
    the episode terminates. Actions are uniformly random.
    """
    rng, rows = np.random.default_rng(0), []
    for _ in range(n_episodes):
        state, t = 0, 0
        while state < 3:
            action, t = int(rng.integers(2)), t + 1
            following = state + action
            rows.append((state, action, state, min(following, 2), following == 3, t == time_limit and following < 3))
            state = 3 if t == time_limit else following
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    return OfflineDataset(
        **dict(zip(names, columns, strict=True)), observation_space=Table.observation_space, action_space=Table.action_space
    )


def exact_value(right: np.ndarray) -> float:
    """``V = r + gamma P V``, solved; the value of state 0."""
    transitions = np.diag(1 - right) + np.diag(right[:2], 1)
    return float(np.linalg.solve(np.eye(3) - GAMMA * transitions, np.arange(3.0))[0])


def small(policy, dataset, **kwargs) -> FQE:
    kwargs = {"gamma": GAMMA, "learning_rate": 1e-2, "batch_size": 128, "target_update_interval": 10} | kwargs
    return FQE(policy, dataset, seed=0, device="cpu", policy_kwargs={"net_arch": [32]}, **kwargs)


@pytest.mark.parametrize("time_limit", [None, 3])
def test_value_of_a_deterministic_policy_is_exact(time_limit):
    """With a time limit of 3, most episodes end at it: the values of their last states are bootstrapped."""
    fqe = small(Table(1, 1, 0), chain(time_limit=time_limit)).learn(900)
    assert exact_value(np.array([1.0, 1.0, 0.0])) == pytest.approx(0.9 + 0.81 * 20)
    assert fqe.value().mean == pytest.approx(0.9 + 0.81 * 20, rel=0.05)


def test_value_of_a_stochastic_policy_is_exact():
    fqe = small(Table(0.5, 0.8, 0.5), chain(), deterministic=False).learn(700)
    expected = exact_value(np.array([0.5, 0.8, 0.5]))
    assert np.mean([fqe.value().mean for _ in range(10)]) == pytest.approx(expected, rel=0.05)
    # The policy is evaluated, not the data, which stay in state 0 for ever.
    assert small(Table(0.0, 0.0, 0.0), chain()).learn(400).value().mean == pytest.approx(0.0, abs=0.5)


def test_target_by_hand():
    rewards, terminations = th.tensor([[7.0], [7.0]]), th.tensor([[0.0], [1.0]])
    assert fqe_target(rewards, terminations, th.tensor([[5.0], [5.0]]), 0.1).tolist() == [[7.5], [7.0]]
    with pytest.raises(AssertionError):
        fqe_target(rewards, terminations, th.zeros(2), 0.1)


def test_interval_is_over_episodes():
    fqe = small(Table(1, 1, 1), chain(20))
    fqe.initial_values = lambda: np.array([1.0, 3.0] * 50)
    value = fqe.value()
    assert value.mean == 2.0
    # 1.96 standard errors of 0.1.
    assert (value.low, value.high) == pytest.approx((1.8, 2.2), abs=0.03)
    fqe.initial_values = lambda: np.array([4.0])
    with pytest.warns(UserWarning, match="one episode"):
        value = fqe.value()
    assert value.mean == 4.0
    assert np.isnan([value.low, value.high]).all()


def test_values_that_rewards_cannot_add_up_to_are_impossible():
    rewards = np.where(np.arange(40) == 7, -3.0, 1.0)
    model = BC("MlpPolicy", None, make_arrays(40) | {"rewards": rewards}, policy_kwargs={"net_arch": [8]}, device="cpu")
    fqe = FQE(model, model.dataset, gamma=0.9, policy_kwargs={"net_arch": [8]}, device="cpu")
    for value, possible in ((59.0, True), (-59.0, True), (61.0, False), (-61.0, False)):
        fqe.initial_values = lambda value=value: np.full(2, value)
        with nullcontext() if possible else pytest.warns(UserWarning, match="impossible: rewards .* add up to 30 at most"):
            assert fqe.value().bound == pytest.approx(30.0)
            assert fqe.value().is_possible == possible
    fqe.gamma = 1.0
    assert fqe.value().bound == np.inf
    # Rewards that are all 0 say nothing of what others are.
    assert Value(0.1, 0.1, 0.1, 1, 0.0).is_possible


def means(module) -> list:
    return [part.mean.tolist() for part in module.modules() if hasattr(part, "clip")]


def test_vectors_are_normalised_with_the_statistics_of_the_data(tmp_path):
    data, other = (make_arrays(40) for _ in range(2))
    other["observations"] = other["observations"] + 100
    model = BC("MlpPolicy", None, data, policy_kwargs={"net_arch": [8]}, device="cpu")
    fqe = FQE(model, data, policy_kwargs={"net_arch": [8]}, device="cpu")
    expected = pytest.approx(data["observations"].mean(axis=0), abs=1e-5)
    assert means(fqe.policy)[0] == means(fqe.target)[0] == expected
    fqe.save(tmp_path / "fqe")
    loaded = FQE.load(tmp_path / "fqe", evaluated=model, dataset=data, device="cpu")
    assert means(loaded.policy)[0] == means(loaded.target)[0] == expected
    fqe.set_dataset(other)
    assert means(fqe.policy)[0] == means(fqe.target)[0] == pytest.approx(other["observations"].mean(axis=0), abs=1e-4)
    plain = FQE(model, data, policy_kwargs={"net_arch": [8]}, normalize_observations=False, device="cpu")
    assert means(plain.policy) == []


def test_an_environment_that_normalises_is_refused():
    env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(OfflineDataset(**make_arrays(40)))]))
    with pytest.raises(ValueError, match="leave VecNormalize out"):
        FQE(Table(1, 1, 1), make_arrays(40), env=env)


def test_an_impossible_value_is_warned_of_and_never_the_best(tmp_path, monkeypatch):
    data = make_arrays(60)
    values = iter([5.0, 1e9, 4.0])
    monkeypatch.setattr(FQE, "initial_values", lambda fqe: np.full(2, value))
    model = BC("MlpPolicy", None, data, policy_kwargs={"net_arch": [8]}, device="cpu")
    callback = FQECallback(data, 1, 1, tmp_path, policy_kwargs={"net_arch": [8]})
    for value in values:
        context = pytest.warns(UserWarning, match=r"the value 1e\+09 is impossible") if value > 5 else nullcontext()
        with context:
            model.learn(1, callback=callback, reset_num_timesteps=False)
    assert callback.best_value == 5.0
    assert BC.load(tmp_path / "best_model").num_timesteps == 1


@pytest.mark.parametrize("make", [lambda: BEAR("MlpPolicy", "Pendulum-v1", PENDULUM, policy_kwargs=TINY),
                                  lambda: BC("MlpPolicy", "Pendulum-v1", PENDULUM),
                                  lambda: TD3BC("MlpPolicy", "Pendulum-v1", PENDULUM),
                                  lambda: SAC("MlpPolicy", "Pendulum-v1"), lambda: PPO("MlpPolicy", "Pendulum-v1"),
                                  lambda: SAC("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1")))])  # fmt: skip
def test_any_model_is_judged(make):
    model = make()
    fqe = FQE(model, PENDULUM, policy_kwargs={"net_arch": [8]}, batch_size=16, seed=0).learn(3)
    assert fqe.value().n_episodes == 150
    figures = offline_figures(model, fqe)
    assert all(np.isfinite(list(figures.values())))
    assert ("td_error" in figures) == isinstance(model, (BEAR, SAC, TD3BC))
    again = FQE(model, PENDULUM, policy_kwargs={"net_arch": [8]}, batch_size=16, seed=0).learn(3)
    assert again.value() == fqe.value()


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-1, 1, (3,)), spaces.MultiBinary(2)),
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(3)),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), spaces.Discrete(2)),
    ],
)
def test_any_space_is_judged(observation_space, action_space):
    def draw(space):
        if isinstance(space, spaces.Dict):
            return {key: draw(part) for key, part in space.spaces.items()}
        return np.stack([space.sample() for _ in range(12)])

    ends = np.arange(12) % 4 == 3
    dataset = OfflineDataset(
        observations=draw(observation_space), actions=draw(action_space), rewards=np.ones(12),
        next_observations=draw(observation_space), terminations=ends, truncations=~ends & False,
        observation_space=observation_space, action_space=action_space,
    )  # fmt: skip
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    model = PPO(policy, DatasetEnv(dataset), policy_kwargs={"net_arch": [8]}, device="cpu")
    fqe = FQE(model, dataset, policy_kwargs={"net_arch": [8]}, batch_size=4).learn(2)
    assert fqe.value().n_episodes == 3
    assert np.isfinite(list(offline_figures(model, fqe).values())).all()


def test_likelihood_and_errors_tell_a_cloned_policy_from_a_fresh_one():
    figures = []
    for steps in (0, 300):
        model = BC(
            "MlpPolicy", None, PENDULUM, actor_type="gaussian", policy_kwargs={"net_arch": [32]}, seed=0, learning_rate=3e-3
        )
        model.learn(steps)
        figures.append(offline_figures(model, FQE(model, PENDULUM, policy_kwargs={"net_arch": [8]})))
    assert figures[1]["log_likelihood"] > figures[0]["log_likelihood"]
    assert figures[1]["action_error"] < figures[0]["action_error"]


@pytest.mark.parametrize("scale", ["raw", "normalize_rewards", "VecNormalize"])
def test_the_td_error_is_that_of_what_the_critics_learn(scale):
    arrays = make_arrays() | {"rewards": np.arange(40, dtype=np.float32)}
    kwargs = {"replay_buffer_kwargs": {"normalize_rewards": True}} if scale == "normalize_rewards" else {}
    env = None
    if scale == "VecNormalize":
        env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(OfflineDataset(**arrays))]), norm_obs=False, gamma=0.5)
    model = TD3BC("MlpPolicy", env, arrays, gamma=0.5, policy_kwargs={"net_arch": [8]}, **kwargs).learn(1)
    with th.no_grad():
        for network in model.critic.q_networks:
            network[-1].weight.zero_()
            network[-1].bias.fill_(10.0)
    returns = []  # of the steps until now
    for row, reward in enumerate(arrays["rewards"]):
        returns.append(reward + (0.5 * returns[-1] if row % 10 else 0.0))
    rewards = arrays["rewards"] / (1.0 if scale == "raw" else np.std(returns))
    targets = rewards + 0.5 * (1.0 - arrays["terminations"]) * 10.0
    figures = offline_figures(model, FQE(model, arrays, gamma=0.99))
    assert figures["td_error"] == pytest.approx(np.square(10.0 - targets).mean(), rel=1e-3)
    model.replay_buffer = None  # as after loading: the scale is not known
    assert ("td_error" in offline_figures(model, FQE(model, arrays))) == (scale != "normalize_rewards")


def test_going_on_after_loading_equals_never_having_stopped(tmp_path):
    policy, data = Table(1, 1, 0), chain(20)
    whole = small(policy, data, target_update_interval=3).learn(10)
    part = small(policy, data, target_update_interval=3).learn(5)
    part.save(tmp_path / "fqe")
    loaded = FQE.load(tmp_path / "fqe", dataset=data, evaluated=policy).learn(5, reset_num_timesteps=False)
    assert loaded.value() == whole.value()


def test_callback_logs_keeps_the_best_and_leaves_training_alone(tmp_path, monkeypatch):
    kwargs = {"policy_kwargs": TINY, "batch_size": 8, "seed": 0, "device": "cpu"}
    plain = BEAR("MlpPolicy", None, PENDULUM, **kwargs).learn(6)
    values = iter([1.0, 3.0, 2.0])
    callback = FQECallback(PENDULUM, 2, 3, tmp_path / "best", tmp_path, policy_kwargs={"net_arch": [8]}, batch_size=8)
    original = callback.evaluate
    monkeypatch.setattr(callback, "evaluate", lambda: (Value(next(values), 0.0, 4.0, 2), original()[1]))
    model = BEAR("MlpPolicy", None, PENDULUM, **kwargs).learn(6, callback=callback)
    for ours, theirs in zip(model.policy.parameters(), plain.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    with np.load(tmp_path / "offline_evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [2, 4, 6]
        assert saved["value"].tolist() == [1.0, 3.0, 2.0]
        assert {"low", "high", "possible", "advantage", "action_error", "log_likelihood", "td_error"} <= set(saved)
    assert BEAR.load(tmp_path / "best" / "best_model").num_timesteps == 4
    assert callback.best_value == 3.0


def test_a_loaded_evaluation_says_what_it_lacks(tmp_path):
    data = chain(5)
    FQE(Table(1, 1, 1), data, policy_kwargs={"net_arch": [8]}).save(tmp_path / "fqe")
    fqe = FQE.load(tmp_path / "fqe", dataset=data)
    for use in (lambda: fqe.learn(1), fqe.value):
        with pytest.raises(ValueError, match=r"FQE\.load\(path, evaluated=policy"):
            use()


def test_a_predict_is_enough():
    class OnlyPredict:
        def predict(self, observations, deterministic=False):
            return np.ones(len(observations), dtype=np.int64), None

    data = chain(20)
    values = [FQE(policy, data, gamma=GAMMA, seed=0).learn(5).value() for policy in (OnlyPredict(), Table(1, 1, 1))]
    assert values[0] == values[1]


def test_a_long_evaluation_shows_its_progress(monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "tqdm", lambda **kwargs: tqdm(**kwargs | {"delay": 0}))
    model = BC("MlpPolicy", None, make_arrays(), policy_kwargs={"net_arch": [8]}, device="cpu")
    evaluation.evaluate_offline(model, make_arrays(), 5)
    assert capsys.readouterr().err == ""
    evaluation.evaluate_offline(model, make_arrays(), 5, progress="robot.zip")
    assert "robot.zip: " in capsys.readouterr().err


def test_callback_evaluates_a_discrete_policy_too():
    data = chain(20)
    model = DQN("MlpPolicy", DatasetEnv(data), policy_kwargs={"net_arch": [8]}, device="cpu")
    callback = FQECallback(data, n_steps=5, policy_kwargs={"net_arch": [8]})
    callback.model = model
    value, figures = callback.evaluate()
    assert np.isfinite([value.mean, *figures.values()]).all()


def test_wrong_input_ends_in_one_error():
    data = chain(5)
    with pytest.raises(ValueError, match=r"policy='greedy'.*predict"):
        FQE("greedy", data)
    with pytest.raises(DatasetError, match="observation_space"):
        FQE(Table(1, 1, 1), PENDULUM)
    with pytest.raises(ValueError, match="recurrent policy"):
        FQE(RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", n_steps=8, policy_kwargs={"lstm_hidden_size": 4}), PENDULUM)
    arrays = make_arrays() | {"terminations": np.zeros(40, bool), "truncations": np.zeros(40, bool)}
    with pytest.raises(DatasetError, match="terminations and truncations are False"):
        FQE(BEAR("MlpPolicy", None, make_arrays(), policy_kwargs=TINY), arrays)
    with pytest.raises(RuntimeError, match="FQE evaluates a policy and has none of its own"):
        FQE(Table(1, 1, 1), data).predict(np.zeros(1, int))
    with pytest.raises(ValueError, match="target_update_interval=0"):
        FQE(Table(1, 1, 1), data, target_update_interval=0)
    shifted = OfflineDataset(**make_arrays() | {"actions": np.ones(40, int), "action_space": spaces.Discrete(2, start=1)})
    with pytest.raises(ValueError, match=r"start=1.*count actions from 0"):
        FQE(PPO("MlpPolicy", DatasetEnv(shifted)), shifted)
    model = BEAR("MlpPolicy", None, PENDULUM, policy_kwargs=TINY, batch_size=8)
    with pytest.raises(DatasetError, match="observation_space"):
        model.learn(2, callback=FQECallback(data))
    assert model.num_timesteps == 0
    assert isinstance(load_dataset(PENDULUM), OfflineDataset)


def test_models_without_a_discount_factor_are_judged_with_that_of_fqe():
    model = ARS("LinearPolicy", "Pendulum-v1", n_delta=1)
    assert np.isfinite(evaluation.evaluate_offline(model, PENDULUM, 2)[0].mean)


SMALL = {"net_arch": [8]}


def tiny_bc(**kwargs) -> BC:
    return BC("MlpPolicy", None, make_arrays(), policy_kwargs=SMALL, seed=0, device="cpu", **kwargs)


def vector(module) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_the_target_follows_by_tau_and_after_as_many_steps_as_asked():
    fqe = small(Table(1, 1, 0), chain(20), tau=0.25, target_update_interval=3)
    start = vector(fqe.target)
    fqe.learn(2)
    assert th.equal(vector(fqe.target), start)
    fqe.learn(1, reset_num_timesteps=False)
    th.testing.assert_close(vector(fqe.target), 0.75 * start + 0.25 * vector(fqe.policy))


def test_nothing_is_dropped_when_values_are_asked_for():
    fqe = FQE(tiny_bc(), make_arrays(), policy_kwargs=SMALL | {"features_extractor_class": Dropping}, device="cpu").learn(1)
    assert np.array_equal(fqe.initial_values(), fqe.initial_values())


def test_less_confidence_is_a_narrower_interval():
    fqe = small(Table(1, 1, 1), chain(20))
    fqe.initial_values = lambda: np.array([1.0, 3.0] * 50)
    # 0.67 standard errors of 0.1.
    assert (fqe.value(0.5).low, fqe.value(0.5).high) == pytest.approx((1.933, 2.067), abs=0.03)


def test_an_evaluation_has_its_own_seed_and_leaves_the_global_generator_alone():
    model, before = tiny_bc(), th.get_rng_state()
    kwargs = {"n_steps": 3, "policy_kwargs": SMALL}
    values = [evaluate_offline(model, make_arrays(), seed=seed, **kwargs)[0].mean for seed in (0, 1, 1)]
    assert values[0] != values[1] == values[2]
    FQECallback(make_arrays(), policy_kwargs=SMALL).init_callback(model)
    assert th.equal(th.get_rng_state(), before)


def test_the_discount_factor_is_the_models():
    model = TD3BC("MlpPolicy", None, make_arrays() | {"rewards": np.ones(40)}, gamma=0.5, policy_kwargs=SMALL, device="cpu")
    value, _ = evaluate_offline(model, model.dataset, 1, policy_kwargs=SMALL)
    assert value.bound == pytest.approx(2.0)


def test_figures_of_acting_by_hand():
    """Where an action is worth its first number."""
    model = tiny_bc()
    fqe = FQE(model, make_arrays(), policy_kwargs=SMALL, device="cpu")
    fqe.q_values = lambda _, actions: actions[:, 0].numpy()
    low, high = model.action_space.low, model.action_space.high
    acted, took = (
        2 * (actions - low) / (high - low) - 1
        for actions in (model.predict(make_arrays()["observations"])[0], make_arrays()["actions"])
    )
    figures = offline_figures(model, fqe)
    assert figures["advantage"] == pytest.approx((acted - took)[:, 0].mean(), abs=1e-5)
    assert figures["action_error"] == pytest.approx(np.square(acted - took).mean(), rel=1e-4)


def test_which_models_have_a_likelihood_and_which_it_is():
    for actor_type in ("deterministic", "gaussian"):
        model = tiny_bc(actor_type=actor_type)
        figures = offline_figures(model, FQE(model, make_arrays(), policy_kwargs=SMALL, device="cpu"))
        assert ("log_likelihood" in figures) == (actor_type == "gaussian")
    continuous = OfflineDataset(**make_arrays())
    choices = OfflineDataset(**make_arrays() | {"actions": np.arange(40) % 2, "action_space": spaces.Discrete(2)})
    for data in (continuous, choices):
        model = PPO("MlpPolicy", DatasetEnv(data), policy_kwargs=SMALL, device="cpu")
        with th.no_grad():
            model.policy.action_net.bias[0] += 1.0
        figures = offline_figures(model, FQE(model, data, policy_kwargs=SMALL, device="cpu"))
        assert ("log_likelihood" in figures) == (data is choices)
    with th.no_grad():
        distribution = model.policy.get_distribution(th.as_tensor(choices.observations))
    expected = distribution.log_prob(th.as_tensor(choices.actions)).mean().item()
    assert figures["log_likelihood"] == pytest.approx(expected, rel=1e-5)


def test_the_td_error_is_that_of_the_lower_critic():
    arrays = make_arrays() | {"rewards": np.zeros(40), "terminations": np.zeros(40, bool)}
    model = TD3BC("MlpPolicy", None, arrays, gamma=0.5, policy_kwargs=SMALL, device="cpu").learn(1)
    with th.no_grad():
        for value, network in zip((10.0, 20.0), model.critic.q_networks, strict=True):
            network[-1].weight.zero_()
            network[-1].bias.fill_(value)
    figures = offline_figures(model, FQE(model, arrays, policy_kwargs=SMALL, device="cpu"))
    assert figures["td_error"] == pytest.approx((5.0**2 + 15.0**2) / 2)


def test_the_callback_logs_what_it_finds_unless_it_never_evaluates(tmp_path):
    model = tiny_bc()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1, callback=FQECallback(make_arrays(), 1, 1, policy_kwargs=SMALL), log_interval=None)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"offline/value", "offline/advantage", "offline/action_error"} <= set(header)
    callback = FQECallback(make_arrays(), 0, 1, policy_kwargs=SMALL)
    model.learn(2, callback=callback)
    assert callback.evaluations == []
