"""
The one-step actor-critic on CartPole: ``python examples/one_step_actor_critic.py``, about two minutes.

What clipped gradients do to it, the literal form, what eligibility traces add, and Stream AC's preset. Leaves a learning
curve.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.results_plotter import load_results
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras import STREAM_PRESET, SingleStepA2C

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENV_ID = "CartPole-v1"
RATES = {"learning_rate": 1e-4, "critic_learning_rate": 5e-4}


def train(name: str, steps: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """:return: Environment steps at the ends of the episodes, and their returns."""
    env = make_vec_env(ENV_ID, seed=0, monitor_dir=str(folder / name))
    if name == "clipped":
        # As SB3's A2C does by default: of a single step's TD error little more than the sign is left.
        model = SingleStepA2C("MlpPolicy", env, max_grad_norm=0.5, seed=0, **RATES)
    elif name == "literal":
        model = SingleStepA2C("MlpPolicy", env, seed=0, **RATES)
    elif name == "with traces":
        model = SingleStepA2C("MlpPolicy", env, trace_decay=0.9, max_grad_norm=0.5, seed=0, **RATES)
    else:
        # Observations and rewards are normalised as they come.
        model = SingleStepA2C("StreamPolicy", VecNormalize(env), seed=0, **STREAM_PRESET)
    model.learn(steps, progress_bar=True)
    episodes = load_results(str(folder / name))
    return episodes["l"].cumsum().to_numpy(), episodes["r"].to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("one_step_actor_critic"))
    parser.add_argument("--steps", type=int, default=50_000, help="steps in the environment of each variant")
    args = parser.parse_args()
    th.set_num_threads(1)

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in ("clipped", "literal", "with traces", "Stream AC"):
        steps, returns = train(name, args.steps, args.folder)
        recent = np.array([returns[max(0, end - 20) : end].mean() for end in range(1, len(returns) + 1)])
        axes.plot(steps, recent, label=name)
        print(f"{name:<12} mean return of the last 20 episodes: {recent[-1]:.0f}")
    axes.set(xlabel="environment steps", ylabel="mean return of the last 20 episodes", title=f"SingleStepA2C on {ENV_ID}")
    axes.legend()
    picture = args.folder / "learning_curve.png"
    figure.savefig(picture, dpi=120)
    print(f"The learning curve is {picture}")


if __name__ == "__main__":
    main()
