"""Normalised scores: what a return is worth between a random and an expert policy."""

from typing import Any

import gymnasium as gym
import numpy as np

from sb3_pg_extras.datasets.dataset import OfflineDataset

# Mean returns of a random and of an expert policy by environment, whatever its version (D4RL, Fu et al. 2020:
# REF_MIN_SCORE and REF_MAX_SCORE in d4rl/infos.py).
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "Ant": (-325.6, 3879.7),
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "AdroitHandPen": (96.262799, 3076.8331),
}


def normalized_score(source: OfflineDataset | gym.Env | str, returns: Any) -> np.ndarray:
    """
    D4RL's normalised score, ``100 (R - R_random) / (R_expert - R_random)`` (Fu et al. 2020, arXiv:2004.07219, section 5).

    :param source: A dataset, whose own ``reference_scores`` count first; an environment; or an environment's id.
    :param returns: Undiscounted episode returns, of any shape.
    :return: The scores, of the same shape: 0 for a random policy, 100 for an expert.
    :raises ValueError: when no reference is known, or when the random and the expert policy score the same.
    """
    if isinstance(source, OfflineDataset) and source.reference_scores is not None:
        name, scores = "reference_scores", source.reference_scores
    else:
        spec: Any = getattr(source, "spec", None)
        env_id = source if isinstance(source, str) else getattr(spec, "id", None) or getattr(source, "env_id", None)
        name, family = f"the id {env_id!r}", str(env_id).rpartition("-v")[0]
        if family not in REFERENCE_SCORES:
            raise ValueError(
                f"no reference scores for {name}: known are {sorted(REFERENCE_SCORES)}; others come from a dataset's "
                "reference_scores=(random, expert)"
            )
        scores = REFERENCE_SCORES[family]
    random, expert = scores
    if random == expert:
        raise ValueError(f"{name}: the random and the expert policy both score {random}: there is no scale")
    return 100.0 * (np.asarray(returns, dtype=np.float64) - random) / (expert - random)
