"""
``sb3-pg-extras collect``: make a dataset with a trained agent of the zoo, or uniformly random actions.

The agent acts as in the zoo's ``enjoy``; the dataset holds observations and rewards before any normalisation. Each step goes
to a journal in ``<output>.partial`` at once, from which the same command resumes after a crash.
"""

import argparse
import hashlib
import importlib
import os
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import rl_zoo3.import_envs  # registers environments
import torch as th
import yaml
from gymnasium import spaces
from huggingface_sb3 import EnvironmentName
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, StoreDict, create_test_env, get_saved_hyperparams
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations
from tqdm import tqdm

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets import DatasetError, save_dataset
from sb3_pg_extras.datasets.collect import Act, from_steps, random_actions, roll, step_dtype
from sb3_pg_extras.datasets.load import MINARI_PREFIX, minari_folder
from sb3_pg_extras.datasets.spaces import space_to_json
from sb3_pg_extras.zoo import UsageError, register
from sb3_pg_extras.zoo.journal import Journal

# The value of --algo that draws actions from the action space.
RANDOM = "random"
VEC_ENVS: dict[str, type[VecEnv]] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}


def with_noise(act: Act, action_space: spaces.Space, noise: float) -> Act:
    """
    Add exploration noise, drawn from NumPy's global generator as SB3's ``action_noise`` is.

    :param act: Maps observations and episode starts to actions.
    :param action_space: The environment's action space.
    :param noise: For Box actions the standard deviation of Gaussian noise, in units of the action scaled to [-1, 1]; the
        result is clipped to the space. For any other space, the chance that an action is replaced by a uniformly random one.
    :return: The same with noise.
    :raises ValueError: when ``noise`` is negative, not finite or, as a chance, above 1, and when Gaussian noise has no scale
        because the space is unbounded, or holds integers.
    """
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise={noise}: expected a finite number, 0 or more")
    if noise == 0:
        return act
    if isinstance(action_space, spaces.Box):
        low, high = action_space.low, action_space.high
        if low.dtype.kind != "f" or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"noise={noise}: needs real actions between finite bounds, not {action_space}; use 0")
        half_width = noise * (high - low) / 2

        def noisy(observations: Any, starts: np.ndarray) -> np.ndarray:
            actions = act(observations, starts)
            return np.clip(actions + half_width * np.random.normal(size=actions.shape), low, high).astype(low.dtype)

        return noisy
    if noise > 1:
        raise ValueError(f"noise={noise}: for {action_space} it is the chance of a random action, at most 1")

    def sometimes_random(observations: Any, starts: np.ndarray) -> np.ndarray:
        actions = np.array(act(observations, starts))
        for index in np.flatnonzero(np.random.random(len(actions)) < noise):
            actions[index] = action_space.sample()
        return actions

    return sometimes_random


class ZooAgent:
    """
    A trained model that acts as in the zoo's ``enjoy``, given raw observations.

    :param model: The model.
    :param env: The environment whose observations it is given, without ``VecNormalize``.
    :param normalizer: The ``VecNormalize`` that the model was trained with, or None; below the frame stack, if there is one.
    :param deterministic: Whether to take deterministic actions.
    """

    def __init__(self, model: BaseAlgorithm, env: VecEnv, normalizer: VecNormalize | None, deterministic: bool) -> None:
        self.model, self.normalizer, self.deterministic = model, normalizer, deterministic
        self.state: Any = None
        self.raw_stack = env.stacked_obs if isinstance(env, VecFrameStack) else None
        if normalizer is not None and self.raw_stack is not None:
            self.stack = StackedObservations(env.num_envs, self.raw_stack.n_stack, normalizer.observation_space)  # type: ignore[arg-type]

    def __call__(self, observations: Any, starts: np.ndarray) -> np.ndarray:
        """
        :param observations: Raw observations, shape ``(n_envs, ...)``, stacked if the environment stacks them.
        :param starts: True where an episode starts, shape ``(n_envs,)``.
        :return: Actions in environment units, shape ``(n_envs, *action_space.shape)``.
        """
        if starts.any() and not self.deterministic and getattr(self.model, "use_sde", False):
            # Without this, gSDE would use the same noise matrix for the whole dataset.
            self.model.policy.reset_noise(len(starts))  # type: ignore[operator]
        actions, self.state = self.model.predict(
            self._seen(observations, starts), state=self.state, episode_start=starts, deterministic=self.deterministic
        )
        return actions

    def _seen(self, observations: Any, starts: np.ndarray) -> Any:
        if self.normalizer is None:
            return observations
        if self.raw_stack is None:
            return self.normalizer.normalize_obs(observations)
        # The zoo stacks normalised frames: those before an episode's first are zeros, not normalised zeros.
        stacks = self.raw_stack.sub_stacked_observations if isinstance(observations, dict) else self.raw_stack
        frames = self.normalizer.normalize_obs(map_arrays(_newest_frame, observations, stacks))
        infos = [{"terminal_observation": map_arrays(itemgetter(index), frames)} for index in range(len(starts))]
        return self.stack.update(frames, starts, infos)[0]  # type: ignore[arg-type]


def _newest_frame(observations: np.ndarray, stack: StackedObservations) -> np.ndarray:
    return np.split(observations, stack.n_stack, axis=stack.stack_dimension)[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-pg-extras collect",
        description="Make a dataset with a trained agent, or random actions. The same command resumes after a crash.",
    )
    parser.add_argument("--env", help="environment ID", type=EnvironmentName, required=True)
    parser.add_argument("--algo", help=f"RL Algorithm, or {RANDOM}", required=True, choices=[*ALGOS, RANDOM])
    parser.add_argument("-o", "--output", help=f"File to write, x.npz, or {MINARI_PREFIX}<id>", required=True)
    parser.add_argument("-n", "--n-timesteps", help="Transitions to collect, in all environments", default=100_000, type=int)
    parser.add_argument("--n-envs", help="number of environments", default=1, type=int)
    parser.add_argument("--vec-env", help="VecEnv type", choices=VEC_ENVS, default="dummy")
    noise = "Standard deviation of noise on actions scaled to [-1, 1]; for discrete actions, chance of a random one"
    parser.add_argument("--noise", help=noise, default=0.0, type=float)
    parser.add_argument("-f", "--folder", help="Log folder", default="logs")
    parser.add_argument("--exp-id", help="Experiment ID (default: 0: latest, -1: no exp folder)", default=0, type=int)
    parser.add_argument("--load-best", action="store_true", help="Load best model instead of last model")
    parser.add_argument("--load-checkpoint", help="Load the checkpoint of that number of timesteps", type=int)
    parser.add_argument("--load-last-checkpoint", action="store_true", help="Load last checkpoint instead of last model")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--deterministic", action="store_true", help="Deterministic actions (default, except Atari, MiniGrid)")
    kind.add_argument("--stochastic", action="store_true", help="Stochastic actions")
    parser.add_argument("--seed", help="Random generator seed", type=int, default=0)
    parser.add_argument("--device", help="PyTorch device (ex: cpu, cuda...)", default="auto")
    parser.add_argument("--num-threads", help="Number of threads for PyTorch (-1 to use default)", default=-1, type=int)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, help="Keyword arguments of the environment")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="Additional Gym environment package modules to import")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Check the arguments before an environment is made."""
    for name, lowest in {"n_timesteps": 1, "n_envs": 1, "seed": 0}.items():
        if getattr(args, name) < lowest:
            raise ValueError(f"argument --{name.replace('_', '-')}: {getattr(args, name)}: expected {lowest} or more")
    if args.algo == RANDOM and args.noise:
        raise ValueError(f"argument --noise: {args.noise}: --algo {RANDOM} is noise already")
    for module in args.gym_packages:
        importlib.import_module(module)
    try:
        gym.spec(args.env.gym_id)
    except gym.error.Error as error:
        raise ValueError(f"argument --env: {error} Import what registers it with --gym-packages") from error
    if args.output.startswith(MINARI_PREFIX):
        require("h5py", "minari")
    elif not args.output.endswith(".npz"):
        raise ValueError(f"argument -o/--output: {args.output!r}: expected a name ending in .npz, or {MINARI_PREFIX}<id>")
    _refuse_existing(args.output)


def _refuse_existing(output: str) -> None:
    if (minari_folder(output) if output.startswith(MINARI_PREFIX) else Path(output)).exists():
        raise DatasetError(f"{output} exists already: delete it to collect it anew, or use another -o")


def _partial(output: str) -> Path:
    """The journal's folder: next to the file; for Minari, whose own folders are not ours, in the current folder."""
    if output.startswith(MINARI_PREFIX):
        return Path(output.replace(MINARI_PREFIX, "minari-", 1).replace("/", "-") + ".partial")
    return Path(f"{output}.partial")


def _find_model(args: argparse.Namespace) -> tuple[Path | None, Path | None, dict[str, Any]]:
    """:return: The files of the model and of its statistics; its hyper-parameters with its environment's arguments."""
    if args.algo == RANDOM:
        return None, None, {"env_kwargs": args.env_kwargs or {}}
    which = (args.exp_id, args.folder, args.algo, args.env, args.load_best, args.load_checkpoint, args.load_last_checkpoint)
    try:
        _, model, log_path = rl_zoo3.utils.get_model_path(*which)
    except UsageError as error:
        raise ValueError(f"argument -f/--folder: {args.folder!r}: {error}") from error
    hyperparams, stats = get_saved_hyperparams(os.path.join(log_path, args.env), test_mode=True)
    # The training's command line overrides the hyper-parameters, and ours overrides both.
    args_file = Path(log_path, args.env, "args.yml")
    trained = yaml.unsafe_load(args_file.read_text()) if args_file.is_file() else {}
    env_kwargs = trained.get("env_kwargs") or hyperparams.get("env_kwargs") or {}
    hyperparams["env_kwargs"] = env_kwargs | (args.env_kwargs or {})
    if stats is None or not hyperparams.get("normalize"):
        return Path(model), None, hyperparams
    statistics = Path(stats, "vecnormalize.pkl")
    if not statistics.is_file():
        raise DatasetError(f"{statistics}: no such file: the agent was trained on observations normalised with it")
    return Path(model), statistics, hyperparams


def _load_model(args: argparse.Namespace, path: Path, hyperparams: dict[str, Any], env: VecEnv | None) -> BaseAlgorithm:
    kwargs: dict[str, Any] = {}
    if issubclass(ALGOS[args.algo], OffPolicyAlgorithm):
        # The replay buffer is not used. An old model may have two options that exclude each other.
        kwargs = {"buffer_size": 1, "optimize_memory_usage": False}
    if "HerReplayBuffer" in str(hyperparams.get("replay_buffer_class", "")):
        kwargs["env"] = env
    # Not needed, and perhaps pickled by another version of Python.
    unused = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    print(f"Loading {path}")
    return ALGOS[args.algo].load(path, device=args.device, custom_objects=unused, seed=args.seed, **kwargs)


def _prepare(args: argparse.Namespace) -> tuple[VecEnv, Act, Journal]:
    """:return: The environments as the zoo makes them, but without ``VecNormalize``; what acts there; and the journal."""
    model_path, statistics, hyperparams = _find_model(args)
    gym_id, env_kwargs = args.env.gym_id, hyperparams["env_kwargs"]
    vec_env_cls = ExperimentManager.default_vec_env_cls or VEC_ENVS[args.vec_env]
    env = create_test_env(
        gym_id, args.n_envs, seed=args.seed, should_render=False, hyperparams=dict(hyperparams), env_kwargs=env_kwargs,
        vec_env_cls=vec_env_cls,
    )  # fmt: skip
    normalizer = None if statistics is None else VecNormalize.load(str(statistics), env)
    if hyperparams.get("frame_stack"):
        env = VecFrameStack(env, hyperparams["frame_stack"])
    # As in enjoy.
    stochastic = args.stochastic or ExperimentManager.is_atari(gym_id) or ExperimentManager.is_minigrid(gym_id)
    deterministic = args.deterministic or not stochastic
    act: Act = random_actions(env)
    if model_path is not None:
        model = _load_model(args, model_path, hyperparams, normalizer or env)
        act = with_noise(ZooAgent(model, env, normalizer, deterministic), env.action_space, args.noise)
    # What the steps depend on. Training may rewrite its statistics and leave its best model as it was.
    arguments = {name: getattr(args, name) for name in ("algo", "n_timesteps", "n_envs", "noise", "seed")} | {
        "env": gym_id,
        "env_kwargs": repr(env_kwargs),
        "deterministic": deterministic,
        "model": None if model_path is None else str(model_path),
        "sha256 of the model": _sha256(model_path),
        "sha256 of the statistics": _sha256(statistics),
        "observation_space": space_to_json(env.observation_space),
        "action_space": space_to_json(env.action_space),
    }
    return env, act, Journal(_partial(args.output), arguments, step_dtype(env))


def _sha256(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _fill(journal: Journal, env: VecEnv, act: Act, args: argparse.Namespace) -> None:
    # Environment i is seeded with seed + i: no run may repeat another one's episodes.
    seed = args.seed + journal.n_runs * args.n_envs
    set_random_seed(seed)
    env.seed(seed)
    # With the same seed, the actions would repeat the random numbers of the environment's first reset.
    env.action_space.seed(int(np.random.randint(2**31)))
    n_steps, n_done = -(-args.n_timesteps // args.n_envs), journal.n_steps
    if n_done:
        print(f"{journal.folder}: going on after {n_done * args.n_envs} timesteps, with new episodes")
    with tqdm(total=n_steps * args.n_envs, initial=n_done * args.n_envs, unit=" timesteps") as progress:
        for step in roll(env, act, n_steps - n_done):
            journal.append(step)
            progress.update(args.n_envs)


def main() -> None:
    """Run ``sb3-pg-extras collect`` with the arguments of the process."""
    register()
    parser = _parser()
    args = parser.parse_args()
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    try:
        _check(args)
        env, act, journal = _prepare(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        # Again, now that the journal is locked: another process may have finished it since.
        _refuse_existing(args.output)
        _fill(journal, env, act, args)
        dataset = from_steps(journal.runs(), env.observation_space, env.action_space, args.env.gym_id)
        _refuse_existing(args.output)
        save_dataset(dataset, args.output)
        journal.remove()
    except KeyboardInterrupt:
        sys.exit(f"\nstopped: the same command goes on from {journal.folder}")
    finally:
        (journal.close if journal.n_steps else journal.remove)()
        env.close()
    print(f"{args.output}: {dataset}")
