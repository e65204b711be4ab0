"""
d3rlpy's BEAR as a worker of ``speed.py``, run by the Python of a virtual environment that has d3rlpy 2.8.1: for each line on
its input it takes that many gradient steps with ``fit`` and answers with the seconds.

    python benchmarks/d3rlpy_worker.py ARRAYS.npz THREADS
"""

import json
import os
import sys
import time
from typing import TextIO

import d3rlpy
import numpy as np
import torch as th


def main() -> None:
    th.set_num_threads(int(sys.argv[2]))
    answers = sys.stdout
    with open(os.devnull, "w") as sys.stdout:  # d3rlpy prints
        work(answers)


def work(answers: TextIO) -> None:
    arrays = np.load(sys.argv[1])
    dataset = d3rlpy.dataset.MDPDataset(
        arrays["observations"], arrays["actions"], arrays["rewards"], arrays["terminations"], arrays["truncations"]
    )
    # The networks of the D4RL authors, which are our defaults.
    encoder = d3rlpy.models.encoders.VectorEncoderFactory([750, 750])
    bear = d3rlpy.algos.BEARConfig(imitator_encoder_factory=encoder, warmup_steps=0).create(device="cpu")
    bear.build_with_dataset(dataset)
    for line in sys.stdin:
        steps, start = int(line), time.perf_counter()
        bear.fit(
            dataset, n_steps=steps, n_steps_per_epoch=steps, show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )  # fmt: skip
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
