"""
d3rlpy's FQE for ``benchmarks/fqe.py``, run by the Python of a virtual environment with d3rlpy 2.8.1. Arguments: a file of
arrays with actions in [-1, 1], a file for the policy, gradient steps, seeds.

It clones the data, writes the policy as TorchScript, and prints the mean value of the initial states for each seed.
"""

import json
import os
import sys

import numpy as np
import torch as th


def main() -> None:
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 (d3rlpy prints, when it is imported too)
    import d3rlpy

    th.set_num_threads(1)
    path, policy_path, n_steps, *seeds = sys.argv[1:]
    arrays = np.load(path)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    dataset = d3rlpy.dataset.MDPDataset(*(arrays[name] for name in names))
    silent = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}
    d3rlpy.seed(0)
    policy = d3rlpy.algos.BCConfig(batch_size=256).create(device="cpu")
    policy.fit(dataset, n_steps=2000, n_steps_per_epoch=2000, **silent)
    policy.save_policy(policy_path)
    starts = np.array([episode.observations[0] for episode in dataset.episodes])
    for seed in seeds:
        d3rlpy.seed(int(seed))
        config = d3rlpy.ope.FQEConfig(learning_rate=3e-4, batch_size=256, gamma=0.98, target_update_interval=10)
        fqe = d3rlpy.ope.FQE(policy, config, device="cpu")
        fqe.fit(dataset, n_steps=int(n_steps), n_steps_per_epoch=int(n_steps), **silent)
        values = fqe.predict_value(starts, policy.predict(starts))
        print(json.dumps({"seed": int(seed), "value": float(values.mean())}), file=answers, flush=True)


if __name__ == "__main__":
    main()
