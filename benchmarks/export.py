"""
Do exported policies act as ``predict(deterministic=True)``? ``python benchmarks/export.py`` writes ``results/export.csv``.

Each policy has random weights (He et al. 2015, so that its actions fill their space). Half of the observations are random,
half are made of bounds, 0, 1 and plus or minus 1e6; a fifth of the images have only extreme pixels. The exported policy gets
them in batches of 1, 7 and more, ``predict`` in batches of 500; rows of the format "predict" are ``predict`` itself in the
exported policy's batches.

Vectors that are uniform up to 1e6 are counted separately: where terms of a million cancel in a sum, single precision leaves
an error of 0.1, in ``predict`` as well as in the file.
"""

import argparse
import csv
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BC, BCQ, BEAR, REINFORCE, TD3BC, SingleStepA2C
from sb3_pg_extras.common.dicts import arrays_of, map_arrays

RESULTS = Path(__file__).parent / "results" / "export.csv"
VECTOR = spaces.Box(-np.inf, np.inf, (6,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
DICT = spaces.Dict(
    {"vector": VECTOR, "image": IMAGE, "bounded": spaces.Box(-2, 3, (2,), np.float64), "mode": spaces.Discrete(4)}
)
BOX = spaces.Box(np.array([-2, 0, -1], np.float32), np.array([3, 1, 1], np.float32))
ACTIONS = {"Box": BOX, "Discrete": spaces.Discrete(5), "MultiDiscrete": spaces.MultiDiscrete([2, 5])}
ACTIONS |= {"MultiBinary": spaces.MultiBinary(3)}
HUGE = "vector, uniform to 1e6"
ONLINE_OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    HUGE: VECTOR,
    "vector, normalised": VECTOR,
    "image": IMAGE,
    "Dict": DICT,
}
ONLINE_OBSERVATIONS |= {"Discrete": spaces.Discrete(7), "MultiDiscrete": spaces.MultiDiscrete([3, 4])}
ONLINE_OBSERVATIONS |= {"MultiBinary": spaces.MultiBinary(5)}
OFFLINE_OBSERVATIONS = {name: ONLINE_OBSERVATIONS[name] for name in ("vector", HUGE, "vector, normalised", "image", "Dict")}


class Nothing(gym.Env):
    """An environment of given spaces that is never stepped."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def policy_name(space: spaces.Space) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if len(space.shape or ()) == 3 else "MlpPolicy"


def offline(algorithm: Any, space: spaces.Space, normalised: bool) -> BaseAlgorithm:
    observations = draw(space, 100, np.random.default_rng(0), large=False)
    dataset = {
        "observations": observations,
        "next_observations": observations,
        "actions": np.random.default_rng(1).uniform(BOX.low, BOX.high, (100, 3)).astype(np.float32),
        "rewards": np.zeros(100, np.float32),
        "terminations": np.arange(100) == 99,
        "truncations": np.zeros(100, bool),
        "observation_space": space,
        "action_space": BOX,
    }
    kwargs: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}, "normalize_observations": normalised}
    if algorithm in (BEAR, BCQ):
        kwargs["policy_kwargs"]["vae_net_arch"] = [64, 64]
    model = algorithm(policy_name(space), None, dataset, seed=0, device="cpu", **kwargs)
    return randomized(model)


def online(algorithm: Any, space: spaces.Space, action_space: spaces.Space, normalised: bool) -> BaseAlgorithm:
    env: Any = DummyVecEnv([lambda: Nothing(space, action_space)])
    if normalised:
        env = VecNormalize(env)
        env.obs_rms.update(draw(space, 100, np.random.default_rng(0), large=False))
    return randomized(algorithm(policy_name(space), env, seed=0, device="cpu"))


def randomized(model: BaseAlgorithm) -> BaseAlgorithm:
    """Give the model random weights, and its values an offset that hides small differences."""
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            elif name.startswith("critic.qf") and parameter.numel() == 1:
                parameter.fill_(100.0)
    return model


def draw(space: spaces.Space, n: int, rng: np.random.Generator, large: bool = True) -> Any:
    """:return: Observations, as the module's docstring says."""
    if isinstance(space, spaces.Dict):
        return {key: draw(part, n, rng, large) for key, part in space.items()}
    if not isinstance(space, spaces.Box):
        space.seed(int(rng.integers(2**31)))
        return np.stack([space.sample() for _ in range(n)])
    shape = (n, *space.shape)
    if space.dtype == np.uint8:
        images = rng.integers(0, 256, shape, np.uint8)
        if large:
            images[::5] = rng.choice(np.array([0, 255], np.uint8), images[::5].shape)
            images[0], images[1] = 0, 255
        return images
    values = rng.normal(size=shape)
    if large:
        bounds = [bound for bound in (space.low.min(), space.high.max()) if np.isfinite(bound)]
        values[::2] = rng.choice([-1e6, 1e6, -1, 1, 0, *bounds], values[::2].shape)
    return values.astype(space.dtype)


def run_in_batches(act: Callable[[Any], np.ndarray], observations: Any, sizes: list[int]) -> np.ndarray:
    n, at = len(arrays_of(observations)[0]), 0
    actions: list[np.ndarray] = []
    while at < n:
        end = min(at + sizes[len(actions) % len(sizes)], n)
        actions.append(act(map_arrays(lambda array: array[at:end], observations)))  # noqa: B023
        at = end
    return np.concatenate(actions)


def formats(model: BaseAlgorithm) -> Iterator[tuple[str, Callable[[Any], np.ndarray]]]:
    onnx, script = io.BytesIO(), io.BytesIO()
    model.export_onnx(onnx)  # type: ignore[attr-defined]
    model.export_torchscript(script)  # type: ignore[attr-defined]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx.getvalue(), options)
    yield "onnx", lambda obs: session.run(None, obs if isinstance(obs, dict) else {"observation": obs})[0]
    loaded = th.jit.load(io.BytesIO(script.getvalue()))
    yield "torchscript", lambda obs: loaded(map_arrays(th.as_tensor, obs)).numpy()
    yield "predict", lambda obs: predict(model, obs)


def predict(model: BaseAlgorithm, observations: Any) -> np.ndarray:
    normalizer = model.get_vec_normalize_env()
    observations = observations if normalizer is None else normalizer.normalize_obs(observations)
    return model.predict(observations, deterministic=True)[0]


def compare(model: BaseAlgorithm, observations: Any) -> Iterator[dict[str, Any]]:
    wanted = run_in_batches(lambda obs: predict(model, obs), observations, [500])
    for name, act in formats(model):
        difference = np.abs(run_in_batches(act, observations, [1, 7, 992]).astype(np.float64) - wanted).reshape(
            len(wanted), -1
        )
        yield {
            "format": name,
            "observations": len(wanted),
            "largest_difference": f"{difference.max():.2g}",
            "disagreements": int((~(difference <= 1e-5)).any(axis=1).sum()),
        }


def cases() -> Iterator[tuple[str, str, str, spaces.Space, Callable[[], BaseAlgorithm]]]:
    algorithm: Any
    for algorithm in (BEAR, BCQ, TD3BC, BC):
        for kind, space in OFFLINE_OBSERVATIONS.items():
            yield algorithm.__name__, kind, "Box", space, partial(offline, algorithm, space, "normalised" in kind)
    for algorithm in (REINFORCE, SingleStepA2C):
        for kind, space in ONLINE_OBSERVATIONS.items():
            for name, actions in ACTIONS.items() if kind == "vector" else [("Box", BOX)]:
                yield algorithm.__name__, kind, name, space, partial(online, algorithm, space, actions, "normalised" in kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, help="observations for each policy")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for algorithm, kind, actions, space, make in cases():
        rng = np.random.default_rng(0)
        observations = rng.uniform(-1e6, 1e6, (args.n, 6)).astype(np.float32) if kind == HUGE else draw(space, args.n, rng)
        for row in compare(make(), observations):
            rows.append({"algorithm": algorithm, "observation": kind, "actions": actions} | row)
            print(*rows[-1].values(), sep=", ", flush=True)
    with args.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
