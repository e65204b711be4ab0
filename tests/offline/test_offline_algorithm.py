"""The offline loop: one gradient step, one timestep, one callback; with an environment and without."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BC, BEAR, FQE, OfflineAlgorithm, load_dataset
from sb3_pg_extras.offline import offline_algorithm
from sb3_pg_extras.offline.progress_bar import GradientStepProgressBar
from sb3_pg_extras.offline.sources import DatasetEnv

BUNDLED = "bundled:pendulum-mixed-v0"


def pendulum(env=None, **kwargs) -> BEAR:
    return BEAR("MlpPolicy", env, BUNDLED, policy_kwargs=TINY, batch_size=8, warmup_fraction=0, seed=0, **kwargs)


class Count(BaseCallback):
    def _on_training_start(self) -> None:
        self.seen, self.ended = [], 0

    def _on_step(self) -> bool:
        self.seen.append((self.num_timesteps, self.model._n_updates))
        assert self.training_env.num_envs == len(self.locals["dones"]) == len(self.locals["infos"])
        assert not self.locals["dones"].any()
        assert self.locals["new_obs"].shape == (self.training_env.num_envs, 3)
        return True

    def _on_training_end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("make_env", [lambda: None, lambda: "Pendulum-v1", lambda: make_vec_env("Pendulum-v1", n_envs=2)])
def test_one_gradient_step_is_one_timestep_is_one_callback(make_env):
    count = Count()
    model = pendulum(make_env())
    assert isinstance(model, OfflineAlgorithm)
    model.learn(5, callback=count)
    assert count.seen == [(i, i) for i in range(1, 6)]
    assert count.ended == 1
    model.learn(2, callback=count, reset_num_timesteps=False)
    assert count.seen == [(6, 6), (7, 7)]
    model.learn(2, callback=count)
    assert count.seen == [(1, 8), (2, 9)]


def test_the_environment_is_neither_stepped_nor_reset():
    class Robot(gym.Wrapper):
        def step(self, action):
            raise AssertionError("moved")

        def reset(self, **kwargs):
            raise AssertionError("moved")

    pendulum(Robot(gym.make("Pendulum-v1"))).learn(3)


def test_a_callback_stops_the_training():
    model = pendulum().learn(10, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 4)
    assert model.num_timesteps == 4


@pytest.mark.parametrize("env", [None, "Pendulum-v1"])
def test_sb3s_callbacks(env, tmp_path):
    count = Count()
    stop = StopTrainingOnRewardThreshold(-1e9)
    evaluation = EvalCallback(
        make_vec_env("Pendulum-v1"), eval_freq=8, n_eval_episodes=1, verbose=0, callback_on_new_best=stop,
        best_model_save_path=str(tmp_path), log_path=str(tmp_path), callback_after_eval=StopTrainingOnNoModelImprovement(3),
    )  # fmt: skip
    callbacks = [
        evaluation,
        CheckpointCallback(3, str(tmp_path), save_replay_buffer=True),
        EveryNTimesteps(2, count),
        LogEveryNTimesteps(4),
        StopTrainingOnMaxEpisodes(5),
    ]
    model = pendulum(env).learn(20, callback=callbacks)
    assert model.num_timesteps == 8  # any reward is above the threshold
    assert [step for step, _ in count.seen] == [2, 4, 6, 8]
    assert {path.name for path in tmp_path.iterdir()} == {
        "best_model.zip", "evaluations.npz", "rl_model_3_steps.zip", "rl_model_6_steps.zip",
        "rl_model_replay_buffer_3_steps.pkl", "rl_model_replay_buffer_6_steps.pkl",
    }  # fmt: skip
    best = BEAR.load(tmp_path / "best_model")
    assert best.num_timesteps == 8
    assert BEAR.load(tmp_path / "rl_model_6_steps").learn(1, reset_num_timesteps=False).num_timesteps == 7


def test_eval_callback_with_vec_normalize(tmp_path):
    env, eval_env = VecNormalize(make_vec_env("Pendulum-v1")), VecNormalize(make_vec_env("Pendulum-v1"), training=False)
    evaluation = EvalCallback(eval_env, eval_freq=2, n_eval_episodes=1, verbose=0, log_path=str(tmp_path))
    pendulum(env).learn(2, callback=evaluation)
    np.testing.assert_allclose(eval_env.obs_rms.mean, env.obs_rms.mean)
    assert len(np.load(tmp_path / "evaluations.npz")["results"]) == 1


@pytest.mark.parametrize("n_envs", [1, 3])
def test_progress_bar_counts_gradient_steps(monkeypatch, n_envs):
    bars, steps = [], []

    class Bar(GradientStepProgressBar):
        def _on_training_end(self) -> None:
            bars.append(self.pbar)

    monkeypatch.setattr("sb3_pg_extras.offline.offline_algorithm.GradientStepProgressBar", Bar)
    model = pendulum(make_vec_env("Pendulum-v1", n_envs=n_envs))
    model.learn(4, callback=lambda *_: steps.append(model.num_timesteps) or True, progress_bar=True)
    assert steps == [1, 2, 3, 4]
    assert [(bar.n, bar.total) for bar in bars] == [(4, 4)]


def test_an_evaluation_copies_no_model():
    """It acts with the weights that learn, one matrix of which at a time is in double precision, and makes none larger."""
    from torch.utils._python_dispatch import TorchDispatchMode

    model = BEAR("MlpPolicy", None, BUNDLED, policy_kwargs={"net_arch": [64, 64]}, n_action_samples=4, warmup_fraction=0)
    addresses = [parameter.data_ptr() for parameter in model.policy.parameters()]
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if not getattr(function, "is_view", False) and hasattr(result, "numel") and "::t" not in str(function):
                largest.append(result.numel())
            return result

    class Watched(EvalCallback):
        def _on_step(self) -> bool:
            with Sizes():
                return super()._on_step()

    model.learn(1, callback=Watched(make_vec_env("Pendulum-v1"), n_eval_episodes=1, eval_freq=1, verbose=0))
    assert len(largest) > 200
    assert max(largest) <= 64 * 64
    assert [parameter.data_ptr() for parameter in model.policy.parameters()] == addresses


def test_log_interval(tmp_path):
    def lines(log_interval) -> int:
        model = pendulum()
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.learn(6, log_interval=log_interval)
        model.logger.close()
        text = (tmp_path / "progress.csv").read_text().splitlines()
        return max(len(text) - 1, 0)

    assert lines(2) == 3
    assert lines(4) == 1
    assert lines(None) == 0


def test_stand_in_environment_cannot_be_stepped():
    model = pendulum()
    assert model.get_env().reset().shape == (1, 3)
    with pytest.raises(RuntimeError, match="env=None"):
        model.get_env().step(np.zeros((1, 1)))
    model.set_env(make_vec_env("Pendulum-v1"))
    model.get_env().reset()
    model.get_env().step(np.zeros((1, 1)))
    model.learn(1)


def test_set_env_with_other_spaces_is_refused():
    with pytest.raises(ValueError, match="spaces do not match"):
        pendulum().set_env(make_vec_env("MountainCarContinuous-v0"))


def test_learn_twice_with_another_dataset():
    model = BEAR("MlpPolicy", None, make_arrays(), policy_kwargs=TINY, warmup_fraction=0)
    model.learn(2)
    model.set_dataset(make_arrays(60))
    model.learn(2)
    assert model.replay_buffer.size() == 60


def test_networks_that_have_learned_keep_their_statistics():
    """Else another dataset would change what a trained policy does, before it has learned anything from it."""
    other = make_arrays()
    other["observations"] = other["observations"] * 3 + 5
    model = BC("MlpPolicy", None, make_arrays(), normalize_observations=True, seed=0, device="cpu")
    untrained = model.predict(other["observations"])[0]
    model.set_dataset(other)
    assert not np.allclose(model.predict(other["observations"])[0], untrained)
    trained = model.learn(1).predict(other["observations"])[0]
    model.set_dataset(make_arrays())
    np.testing.assert_array_equal(model.predict(other["observations"])[0], trained)


def test_a_model_does_not_learn_on_with_another_vec_normalize(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = BC("MlpPolicy", env, "bundled:pendulum-mixed-v0", policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").learn(2)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    loaded = BC.load(tmp_path / "model", device="cpu")
    with pytest.raises(
        ValueError, match=r"VecNormalize is off, but this BC learned with \(norm_obs=True, norm_reward=True\)"
    ):
        loaded.learn(1, reset_num_timesteps=False)
    same = VecNormalize.load(str(tmp_path / "statistics.pkl"), make_vec_env("Pendulum-v1"))
    loaded.set_env(same)
    loaded.learn(1, reset_num_timesteps=False)
    np.testing.assert_array_equal(same.obs_rms.mean, env.obs_rms.mean)


def test_arguments_that_change_between_two_calls_count():
    model = BC("MlpPolicy", None, make_arrays(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").learn(1)
    model.lr_schedule = lambda progress: 0.0
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(2)
    assert all(map(th.equal, before, model.policy.parameters()))
    model.batch_size = 0
    with pytest.raises(ValueError, match="batch_size=0"):
        model.learn(1)
    bear = BEAR("MlpPolicy", None, make_arrays(), policy_kwargs=TINY, warmup_fraction=0, device="cpu").learn(1)
    bear.n_steps, bear.gamma = 1, 0.5
    bear.learn(1)
    assert (bear.replay_buffer.n_steps, bear.replay_buffer.gamma) == (1, 0.5)


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"policy_kwargs": "dict(net_arch=[8])"}, "policy_kwargs='dict"),
        ({"replay_buffer_kwargs": {"normalise_rewards": True}}, "replay_buffer_kwargs 'normalise_rewards': must be among"),
        ({"policy_kwargs": {"n_critics": 0}}, "n_critics=0"),
    ],
)
def test_wrong_arguments_are_named_before_the_data_are_read(kwargs, word):
    with pytest.raises(ValueError, match=word):
        BEAR("MlpPolicy", "Pendulum-v1", "nowhere.npz", **kwargs)


def test_wrong_arguments_of_learn_are_named():
    with pytest.raises(ValueError, match="total_timesteps='100'"):
        pendulum().learn("100")
    with pytest.raises(ValueError, match="log_interval=0"):
        pendulum().learn(1, log_interval=0)


def test_loading_takes_the_policy_kwargs_of_the_constructor(tmp_path):
    model = pendulum()
    assert model.policy_kwargs == TINY
    model.save(tmp_path / "model")
    assert BEAR.load(tmp_path / "model", policy_kwargs=TINY, device="cpu").policy_kwargs == TINY
    with pytest.raises(ValueError, match="policy kwargs"):
        BEAR.load(tmp_path / "model", policy_kwargs={"net_arch": [9]}, device="cpu")


def test_a_loaded_model_reads_its_dataset_where_it_is_needed(tmp_path):
    data = load_dataset(make_arrays())
    model = BC("MlpPolicy", None, data, policy_kwargs={"net_arch": [8]}, device="cpu")
    model.save(tmp_path / "model")
    FQE(model, data, policy_kwargs={"net_arch": [8]}, device="cpu").save(tmp_path / "fqe")
    BC.load(tmp_path / "model", dataset=data).save_replay_buffer(tmp_path / "buffer")
    assert len(load_dataset(tmp_path / "buffer.pkl")) == len(data)
    assert FQE.load(tmp_path / "fqe", evaluated=model, dataset=data).value().n_episodes == data.n_episodes
    with pytest.raises(ValueError, match="this BC has no dataset"):
        BC.load(tmp_path / "model").save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="this FQE has no dataset"):
        FQE.load(tmp_path / "fqe", evaluated=model).value()


def tiny_bc(env=None, data=None) -> BC:
    return BC("MlpPolicy", env, data or make_arrays(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")


def due(model) -> dict[str, float]:
    """The line of the log that is due."""
    line: dict[str, float] = {}
    model.logger.dump = lambda step: line.update(model.logger.name_to_value)
    model.dump_logs()
    return line


def test_the_log_has_means_since_the_last_line():
    model = tiny_bc().learn(1)
    due(model)
    values = iter((1.0, 3.0, 7.0))
    model._update = lambda *_: {"x": th.tensor(next(values))}
    model.train(2, 16)
    assert due(model)["train/x"] == 2.0
    model.train(1, 16)
    assert due(model)["train/x"] == 7.0


def test_the_speed_is_that_of_this_call_of_learn(monkeypatch):
    model = tiny_bc().learn(10)
    model.learn(4, reset_num_timesteps=False)
    monkeypatch.setattr(offline_algorithm.time, "time_ns", lambda: model.start_time + 2 * 10**9)
    assert due(model)["time/fps"] == 2


def test_what_is_not_finite_is_not_logged():
    data = make_arrays()
    data["rewards"].fill(3e38)
    model = BEAR("MlpPolicy", None, data, policy_kwargs=TINY, warmup_fraction=0, seed=0, device="cpu")
    with pytest.raises(ValueError, match="is not finite at gradient step 1,"):
        model.learn(3, log_interval=1)


def wrapped(data, **kwargs) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: DatasetEnv(data)]), **kwargs)


@pytest.mark.parametrize(("training", "count"), [(False, None), (True, None), (True, 50.0)])
def test_a_wrapper_without_statistics_or_that_gathers_them_gets_the_datasets(training, count):
    data = load_dataset(make_arrays())
    env = wrapped(data, training=training)
    if count is not None:
        env.obs_rms.count, env.obs_rms.mean = count, env.obs_rms.mean + 9.0
    tiny_bc(env, data).learn(1)
    np.testing.assert_allclose(env.obs_rms.mean, data.observations.mean(axis=0), atol=1e-6)
    assert not env.training


def test_a_wrapper_that_has_stopped_keeps_its_statistics():
    data = load_dataset(make_arrays())
    env = wrapped(data, training=False)
    env.obs_rms.count, env.obs_rms.mean = 50.0, env.obs_rms.mean + 9.0
    tiny_bc(env, data).learn(1)
    assert env.obs_rms.mean.tolist() == [9.0] * 3


def test_the_stand_in_environment_keeps_no_view_of_the_data():
    data = load_dataset(make_arrays())
    assert not np.shares_memory(DatasetEnv(data)._first, data.observations)
