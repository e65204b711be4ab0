"""Models are saved whole or not at all, whichever way they are saved."""

import multiprocessing
import pickletools
import random
import time

import numpy as np
import pytest
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras import BC, BEAR, REINFORCE, OfflineAlgorithm, SingleStepA2C

# Windows cannot fork: a child then imports everything, which takes seconds.
PROCESSES = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def saving(model, folder):
    return lambda: model.save(folder / "model.zip")


def saving_policy(model, folder):
    return lambda: model.policy.save(folder / "policy.pth")


def checkpoints(model, folder):
    """CheckpointCallback, and VecNormalize's statistics beside the model."""
    callback = CheckpointCallback(1, str(folder), save_vecnormalize=True)
    callback.init_callback(model)
    return callback.on_step


def best_model(model, folder):
    """EvalCallback, with the RL Zoo's callback for the statistics of the best model."""
    statistics = SaveVecNormalizeCallback(1, str(folder))
    env = VecNormalize(make_vec_env("Pendulum-v1", env_kwargs={"max_episode_steps": 1}), training=False)
    callback = EvalCallback(env, statistics, n_eval_episodes=1, eval_freq=1, best_model_save_path=str(folder), verbose=0)
    model.set_logger(Logger(None, []))
    callback.init_callback(model)

    def evaluate():
        callback.best_mean_reward = -np.inf
        callback.on_step()

    return evaluate


def load_all(model, folder):
    """Load each file in the folder. :return: Their number."""
    loaders = {
        ".zip": type(model).load,
        ".pth": type(model.policy).load,
        ".pkl": lambda path: VecNormalize.load(str(path), make_vec_env("Pendulum-v1")),
    }
    files = [path for path in folder.iterdir() if path.suffix in loaders]
    for path in files:
        loaders[path.suffix](path)
    return len(files)


def model_to_save(algorithm):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    kwargs = {"dataset": "bundled:pendulum-mixed-v0"} if issubclass(algorithm, OfflineAlgorithm) else {}
    policy_kwargs = {"net_arch": [256, 256]} | ({"vae_net_arch": [256]} if algorithm is BEAR else {})
    return algorithm("MlpPolicy", env, seed=0, policy_kwargs=policy_kwargs, **kwargs)


def save_until_killed(algorithm, way, folder, has_begun):
    save = way(model_to_save(algorithm), folder)
    has_begun.set()
    while True:
        save()


@pytest.mark.parametrize("n_kills", [5, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("algorithm", "way"),
    [
        *[(algorithm, saving) for algorithm in (REINFORCE, SingleStepA2C, BEAR)],
        *[(algorithm, saving_policy) for algorithm in (SingleStepA2C, BC)],
        *[(algorithm, way) for way in (checkpoints, best_model) for algorithm in (REINFORCE, BC)],
    ],
)
def test_kills_while_saving_leave_files_that_load(algorithm, way, n_kills, tmp_path):
    model = model_to_save(algorithm)
    save = way(model, tmp_path)
    save()
    n_files = len(list(tmp_path.iterdir()))
    start = time.perf_counter()
    save()
    duration, rng, interrupted = time.perf_counter() - start, random.Random(0), 0
    for _ in range(n_kills):
        has_begun = PROCESSES.Event()
        child = PROCESSES.Process(target=save_until_killed, args=(algorithm, way, tmp_path, has_begun), daemon=True)
        child.start()
        assert has_begun.wait(60)
        time.sleep(rng.uniform(0, 2 * duration))
        child.kill()
        child.join()
        interrupted += len(list(tmp_path.iterdir())) > n_files
        assert load_all(model, tmp_path) == n_files
    # The kills met the saving.
    assert interrupted >= n_kills // 10
    save()
    assert len(list(tmp_path.iterdir())) == n_files


@pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C, BC])
def test_statistics_beside_a_checkpoint_are_whole_and_sb3s_own(algorithm, tmp_path, monkeypatch):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = algorithm("MlpPolicy", env, seed=0, **({"batch_size": 8} if algorithm is BC else {}))
    path = tmp_path / "rl_model_vecnormalize_250_steps.pkl"
    path.write_bytes(b"old")
    model.learn(250, callback=CheckpointCallback(250, str(tmp_path), save_vecnormalize=True))
    assert model.get_vec_normalize_env() is env
    content = path.read_bytes()
    loaded = VecNormalize.load(str(path), make_vec_env("Pendulum-v1"))
    assert type(loaded) is VecNormalize
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)
    # Who loads it needs no package of ours.
    assert not any("sb3_pg_extras" in str(argument) for _, argument, _ in pickletools.genops(content))
    # A save that is cut leaves what was there.
    monkeypatch.setattr("pickle.dump", lambda thing, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        model.get_vec_normalize_env().save(str(path))
    assert path.read_bytes() == content
