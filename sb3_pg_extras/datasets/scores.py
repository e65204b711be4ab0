"""Normalised scores: returns on a scale from a random to an expert policy."""

from typing import Any

import numpy as np

# Mean returns of a random and of an expert policy (D4RL, Fu et al. 2020: REF_MIN_SCORE and REF_MAX_SCORE in d4rl/infos.py),
# by the beginning of D4RL's names and by Gymnasium's names for the same tasks; versions share them.
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "ant": (-325.6, 3879.7),
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "minigrid-fourrooms": (0.01442, 2.89685),
    "flow-ring": (-165.22, 24.42),
    "flow-merge": (118.67993, 330.03179),
    "carla-lane": (-0.8503839912088142, 1023.5784385429523),
    "carla-town": (-114.81579500772153, 2440.1772022247314),
    "bullet-halfcheetah": (-1275.766996, 2381.6725),
    "bullet-hopper": (20.058972, 1441.8059623430963),
    "bullet-ant": (373.705955, 2650.495),
    "bullet-walker2d": (16.523877, 1623.6476303317536),
    "bullet-maze2d-open": (8.75, 64.15),
    "bullet-maze2d-umaze": (32.46, 153.99),
    "bullet-maze2d-medium": (14.87, 238.05),
    "bullet-maze2d-large": (1.82, 285.92),
}
ADROIT = {f"AdroitHand{name.capitalize()}": REFERENCE_SCORES[name] for name in ("pen", "hammer", "door", "relocate")}
REFERENCE_SCORES |= ADROIT | {name: REFERENCE_SCORES[name.lower()] for name in ("Ant", "HalfCheetah", "Hopper", "Walker2d")}


def normalized_score(source: Any, returns: Any) -> np.ndarray:
    """
    D4RL's normalised score, ``100 (R - R_random) / (R_expert - R_random)`` (Fu et al. 2020, arXiv:2004.07219, section 5).

    :param source: An :class:`OfflineDataset`, whose own ``reference_scores`` come first; an environment; its id; or the
        name of a D4RL dataset, such as ``"antmaze-umaze-v2"``.
    :param returns: Undiscounted episode returns, of any shape.
    :return: The scores, of the same shape: 0 for a random policy, 100 for an expert.
    :raises ValueError: when no reference is known, or when the random and the expert policy score the same.
    """
    own = getattr(source, "reference_scores", None)
    if own is not None:
        name, scores = "reference_scores", own
    else:
        spec: Any = getattr(source, "spec", None)
        env_id = source if isinstance(source, str) else getattr(spec, "id", None) or getattr(source, "env_id", None)
        name, family = f"the id {env_id!r}", str(env_id).rpartition("-v")[0]
        known = [task for task in REFERENCE_SCORES if f"{family}-".startswith(f"{task}-")]
        if not known:
            raise ValueError(
                f"no reference scores for {name}: known are {sorted(REFERENCE_SCORES)}; others come from a dataset's "
                "reference_scores=(random, expert)"
            )
        scores = REFERENCE_SCORES[max(known, key=len)]
    random, expert = scores
    if random == expert:
        raise ValueError(f"{name}: the random and the expert policy both score {random}: pass two different references")
    return 100.0 * (np.asarray(returns, dtype=np.float64) - random) / (expert - random)
