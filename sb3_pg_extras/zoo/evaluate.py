"""``sb3-pg-extras evaluate``: evaluate a model, or all checkpoints of a run, on a dataset. No environment is needed."""

import argparse
import glob
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from matplotlib.figure import Figure
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.layout import has_spaces
from sb3_pg_extras.datasets.plots import COLOR
from sb3_pg_extras.datasets.summary import aligned
from sb3_pg_extras.offline.evaluation import evaluate_offline
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.sources import DatasetEnv
from sb3_pg_extras.zoo import UsageError, new_file, register
from sb3_pg_extras.zoo.collect import _load_model
from sb3_pg_extras.zoo.manager import errors_of_arguments
from sb3_pg_extras.zoo.offline import FQE_STEPS, held_out_of, run_name


def main() -> None:
    """Run ``sb3-pg-extras evaluate`` with the arguments of the process."""
    register()
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras evaluate",
        description="Evaluate a model, or all checkpoints of a run, by fitted Q evaluation on a dataset: on the episodes "
        "that the run held out, if it was trained on this dataset without an environment, or else on all of them.",
    )
    parser.add_argument("--algo", help="RL Algorithm", required=True, choices=list(ALGOS))
    parser.add_argument("--dataset", help="a file or folder, minari:<id>, or bundled:<name>", required=True)
    parser.add_argument("--env", help="environment ID of the run, if it had one")
    parser.add_argument("-f", "--folder", help="Log folder", default="logs")
    parser.add_argument("--exp-id", help="Experiment ID (default: 0: latest)", default=0, type=int)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last one")
    which.add_argument("--checkpoints", action="store_true", help="all checkpoints, and the last model")
    which.add_argument("--model", help="a saved model, x.zip, instead of a run's", type=Path)
    parser.add_argument("--fqe-steps", help="gradient steps for each model", default=FQE_STEPS, type=int)
    parser.add_argument("--gamma", help="discount factor (default: each model's)", type=float)
    parser.add_argument("-o", "--output", help="the PNG to write (default: a new file in this folder)", type=Path)
    parser.add_argument("--seed", help="Random generator seed", type=int, default=0)
    parser.add_argument("--device", help="PyTorch device (ex: cpu, cuda...)", default="auto")
    parser.add_argument("--num-threads", help="Number of threads for PyTorch (-1 to use default)", default=-1, type=int)
    args = parser.parse_args()
    if args.fqe_steps < 1:
        parser.error(f"argument --fqe-steps: {args.fqe_steps}: at least 1")
    if args.output is not None and args.output.suffix != ".png":
        parser.error(f"argument -o/--output: {args.output}: the file name must end in .png")
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    name = (args.env or run_name(args.dataset)).replace("/", "-")
    paths = _models(args, name)
    data, described = held_out_of(paths[0].parent, args.dataset)
    print(f"Evaluating on {described}: {data}")
    with errors_of_arguments():
        rows = {path.name: _figures(args, path, data) for path in paths}
    print("\n".join(["", *aligned(rows)]))
    output = args.output or new_file(f"{args.algo}-{name}-offline", ".png")
    _plot(rows, output, f"{args.algo}, evaluated on {described}")
    print(f"\nPicture: {output}")


def _models(args: argparse.Namespace, name: str) -> list[Path]:
    """:return: The models to evaluate, at least one, in the order of training."""
    if args.model is not None:
        if not args.model.is_file():
            raise UsageError(f"--model {args.model}: no such file")
        return [args.model]
    runs = {}
    for path in Path(args.folder, args.algo).glob(f"{glob.escape(name)}_*"):
        number = path.name.removeprefix(f"{name}_")
        if number.isdigit() and any(path.glob("*.zip")):
            runs[int(number)] = path
    run = runs.get(args.exp_id or max(runs, default=0))
    what = f"no model of {args.algo} on {name} in {args.folder}" + f" with --exp-id {args.exp_id}" * bool(args.exp_id)
    hint = "name a run's folder with -f, its environment with --env, its number with --exp-id, or a file with --model"
    if run is None:
        raise UsageError(f"{what}: {hint}")
    models = [run / ("best_model.zip" if args.load_best else f"{name}.zip")]
    if args.checkpoints:
        steps = {
            int(found[1]): path for path in run.iterdir() if (found := re.fullmatch(r"rl_model_(\d+)_steps\.zip", path.name))
        }
        models = [*(steps[step] for step in sorted(steps)), *models]
    models = [path for path in models if path.is_file()]
    if not models:
        raise UsageError(
            f"{run} has none of the models asked for, only {', '.join(sorted(p.name for p in run.glob('*.zip')))}"
        )
    return models


def _figures(args: argparse.Namespace, path: Path, data: OfflineDataset) -> dict[str, Any]:
    model = _load_model(args, path, {}, None)
    if not has_spaces(data, model.observation_space, model.action_space):
        theirs = f"{model.observation_space} and {model.action_space}"
        raise DatasetError(
            f"{path} is for the spaces {theirs}, {args.dataset} has {data.observation_space} and {data.action_space}"
        )
    files = list(path.parent.glob("*/vecnormalize.pkl"))
    if not files and _learned_normalized(model, path):
        raise DatasetError(
            f"{path} learned with VecNormalize, whose vecnormalize.pkl is not beside it: evaluate a whole run"
        )
    for statistics in files:
        model.set_env(VecNormalize.load(str(statistics), DummyVecEnv([lambda: DatasetEnv(data)])))
    gamma = {} if args.gamma is None else {"gamma": args.gamma}
    value, figures = evaluate_offline(model, data, args.fqe_steps, args.seed, path.name, **gamma)
    return {"timesteps": model.num_timesteps, **value.row(), **figures}


def _learned_normalized(model: Any, path: Path) -> bool:
    if isinstance(model, OfflineAlgorithm):
        return model.learned_normalized
    configs = [yaml.unsafe_load(file.read_text()) for file in path.parent.glob("*/config.yml")]
    return any(config.get("normalize") for config in configs)


def _plot(rows: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    columns = {name: np.array([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
    steps, low, high, possible = (columns.pop(name) for name in ("timesteps", "low", "high", "possible"))
    # Next to an impossible value, nothing else could be seen.
    for values in (columns["value"], low, high):
        values[possible == 0] = np.nan
    figure = Figure(figsize=(3.2 * len(columns), 3.4), layout="constrained")
    figure.suptitle(title)
    for axes, (name, values) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        axes.plot(steps, values, "o-", color=COLOR)
        if name == "value":
            axes.vlines(steps, low, high, color=COLOR, alpha=0.5)
        axes.set(title=name, xlabel="timesteps")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)
