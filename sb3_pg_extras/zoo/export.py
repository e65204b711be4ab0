"""``sb3-pg-extras export``: write the policy of a trained agent as a file that a robot runs."""

import argparse
import importlib
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import StoreDict, create_test_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_pg_extras.common.export import export_onnx, export_torchscript
from sb3_pg_extras.zoo import CLASSES, register
from sb3_pg_extras.zoo.collect import _find_model, _load_model
from sb3_pg_extras.zoo.offline import run_name

FORMATS = {".onnx": export_onnx, ".pt": export_torchscript}


def main() -> None:
    """Run ``sb3-pg-extras export`` with the arguments of the process."""
    register()
    parser = _parser()
    args = parser.parse_args()
    if args.output.suffix not in FORMATS:
        parser.error(f"argument -o/--output: {args.output}: the file name must end in {' or '.join(FORMATS)}")
    if args.dataset is not None:
        args.env = EnvironmentName(run_name(args.dataset))
    for module in args.gym_packages:
        importlib.import_module(module)
    try:
        _export(args)
    except ValueError as error:
        message = str(error)
        if args.dataset is not None:
            # Where there is no run it says how to train one, which here is not in an environment.
            message = message.replace(f"--env {args.env}", f"--dataset {args.dataset}")
        parser.error(message)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras export",
        description="Write the policy of a trained agent to a file that takes raw observations and returns actions.",
    )
    trained_on = parser.add_mutually_exclusive_group(required=True)
    trained_on.add_argument("--env", help="environment ID", type=EnvironmentName)
    trained_on.add_argument("--dataset", help="the dataset of a run without an environment, as train was given it")
    parser.add_argument("--algo", help="RL Algorithm", required=True, choices=CLASSES)
    parser.add_argument("-o", "--output", help="File to write, x.onnx, or x.pt for TorchScript", type=Path, required=True)
    parser.add_argument("-f", "--folder", help="Log folder", default="logs")
    parser.add_argument("--exp-id", help="Experiment ID (default: 0: latest, -1: no exp folder)", default=0, type=int)
    parser.add_argument("--load-best", action="store_true", help="Load best model instead of last model")
    parser.add_argument("--load-checkpoint", help="Load the checkpoint of that number of timesteps", type=int)
    parser.add_argument("--load-last-checkpoint", action="store_true", help="Load last checkpoint instead of last model")
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, help="Keyword arguments of the environment")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="Additional Gym environment package modules to import")
    parser.set_defaults(device="cpu", seed=None)
    return parser


def _export(args: argparse.Namespace) -> None:
    path, statistics, hyperparams = _find_model(args)
    assert path is not None
    normalizer: VecNormalize | None = None if statistics is None else pickle.loads(statistics.read_bytes())
    model = _load_model(args, path, hyperparams, None)
    space = model.observation_space
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(map(is_image_space, parts)) and args.env.gym_id in gym.registry:
        # Only the environment knows the order of its images' axes; a run without one has the policy's order.
        env: Any = create_test_env(
            args.env.gym_id, should_render=False, hyperparams=dict(hyperparams), env_kwargs=hyperparams["env_kwargs"]
        )
        if normalizer is not None:
            normalizer.set_venv(env)
            env = normalizer
        model.set_env(VecFrameStack(env, hyperparams["frame_stack"]) if hyperparams.get("frame_stack") else env)
    FORMATS[args.output.suffix](model, args.output, normalizer or False)
