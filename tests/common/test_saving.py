"""Models are saved whole or not at all, by whatever way."""

import os
import random
import signal
import time

import pytest

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
