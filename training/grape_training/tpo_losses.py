"""The loss families on the margin m of a preference, each with its derivative; label smoothing for all.

With smoothing e a preference is the wrong way round with probability e, so the loss is the expectation
``(1 - e) f(m) + e f(-m)`` (conservative DPO, Mitchell 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from grape_training.tpo_options import Objective

Margins = NDArray[np.float64]
Loss = Callable[[float, Margins], tuple[Margins, Margins]]


def sigmoid(beta: float, margin: Margins) -> tuple[Margins, Margins]:
    """GRAPE eq. 5-6 and DPO (arXiv 2305.18290): minus the log of the logistic function of beta m."""
    return np.logaddexp(0.0, -beta * margin), -beta * expit(-beta * margin)


def ipo(beta: float, margin: Margins) -> tuple[Margins, Margins]:
    """Return (m - 1 / (2 beta))^2: IPO (arXiv 2310.12036, eq. 17), which is least at a finite margin."""
    difference = margin - 1.0 / (2.0 * beta)
    return difference**2, 2.0 * difference


def hinge(beta: float, margin: Margins) -> tuple[Margins, Margins]:
    """Return max(0, 1 - beta m): SLiC (arXiv 2305.10425)."""
    return np.maximum(0.0, 1.0 - beta * margin), np.where(beta * margin < 1.0, -beta, 0.0)


LOSSES: dict[str, Loss] = {"sigmoid": sigmoid, "ipo": ipo, "hinge": hinge}


def preference_loss(objective: Objective, margin: Margins) -> tuple[Margins, Margins]:
    """Return loss and d loss / d margin of each of ``margin`` (any shape, float64)."""
    loss = LOSSES[objective.loss]
    right, right_slope = loss(objective.beta, margin)
    wrong, wrong_slope = loss(objective.beta, -margin)
    smoothing = objective.label_smoothing
    value = (1.0 - smoothing) * right + smoothing * wrong
    return value, (1.0 - smoothing) * right_slope - smoothing * wrong_slope
