"""How a measured path of the end effector is judged: its length and its jerk."""

from __future__ import annotations

import numpy as np


def path_length(positions: np.ndarray) -> float:
    """Return the sum of the distances between successive positions (T, 3), in m."""
    if len(positions) < 2:
        return 0.0
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def rms_jerk(positions: np.ndarray, period: float) -> float:
    """Return the root mean square of the jerk of positions (T, 3) m sampled every ``period`` s, in m/s^3.

    The jerk is the third finite difference, j_t = (p_{t+3} - 3 p_{t+2} + 3 p_{t+1} - p_t) / period^3, and the
    result sqrt(mean_t |j_t|^2). Fewer than four positions have no jerk: 0.
    """
    if len(positions) < 4:
        return 0.0
    jerk = np.diff(positions, n=3, axis=0) / period**3
    return float(np.sqrt((jerk**2).sum(axis=1).mean()))
