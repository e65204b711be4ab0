"""
d3rlpy's BEAR, or its FQE of a BC policy, as a worker of ``benchmarks/speed/bear.py``, run by the Python of a virtual
environment with d3rlpy 2.8.1: for each line on its input it takes that many gradient steps and answers with the seconds.
Arguments: ``bear`` or ``fqe``, a file of arrays, device, threads, batch size.
"""

import json
import os
import sys
import time

import numpy as np
import torch as th


def main() -> None:
    kind, file, device, threads, batch_size = sys.argv[1:]
    th.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 (d3rlpy prints, when it is imported too)
    import d3rlpy

    arrays = np.load(file)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    dataset = d3rlpy.dataset.MDPDataset(*(arrays[name] for name in names))
    if kind == "bear":
        # The networks of the D4RL authors, which are our published preset.
        encoder = d3rlpy.models.encoders.VectorEncoderFactory([750, 750])
        config = d3rlpy.algos.BEARConfig(imitator_encoder_factory=encoder, warmup_steps=0, batch_size=int(batch_size))
        learner = config.create(device=device)
        learner.build_with_dataset(dataset)
    else:
        policy = d3rlpy.algos.BCConfig().create(device=device)
        policy.build_with_dataset(dataset)
        learner = d3rlpy.ope.FQE(policy, d3rlpy.ope.FQEConfig(batch_size=int(batch_size)), device=device)
    no_log = d3rlpy.logging.NoopAdapterFactory()
    for line in sys.stdin:
        steps, start = int(line), time.perf_counter()
        learner.fit(dataset, n_steps=steps, n_steps_per_epoch=steps, show_progress=False, logger_adapter=no_log)
        if device == "cuda":
            th.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
