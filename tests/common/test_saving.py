"""Models are saved whole or not at all, by whatever way."""

import os
import pickletools
import random
import signal
import time

import numpy as np
import pytest
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras import REINFORCE, SingleStepA2C


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the process that is killed")
@pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C])
@pytest.mark.parametrize("n_kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_while_saving_leave_a_file_that_loads(algorithm, n_kills, tmp_path):
    path = tmp_path / "model.zip"
    model = algorithm("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs={"net_arch": [256, 256]})
    model.save(path)
    start = time.perf_counter()
    model.save(path)
    duration, rng, interrupted = time.perf_counter() - start, random.Random(0), 0
    for _ in range(n_kills):
        child = os.fork()
        if not child:
            while True:
                model.save(path)
        time.sleep(rng.uniform(0, 2 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += len(list(tmp_path.iterdir())) > 1
        algorithm.load(path)
    # The kills met the saving.
    assert interrupted > n_kills // 10
    model.save(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("algorithm", [REINFORCE, SingleStepA2C])
def test_statistics_beside_a_checkpoint_are_whole_and_sb3s_own(algorithm, tmp_path, monkeypatch):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = algorithm("MlpPolicy", env, seed=0)
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
