"""One action: what of it is believed, and how far it may go."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .description import FloatArray, StepLimits
from .safety import ActionRefused, Reason

ACTION_SIZE = 7
GRIPPER_SLACK = 0.05  # a de-normalised gripper value may lie a little outside 0..1


def checked(action: ArrayLike, limits: StepLimits) -> FloatArray:
    """Return the action (7,): translation (m), rotation vector (rad), gripper 0..1.

    Raises:
        ActionRefused: wrong shape, not finite, or beyond any sensible step.
    """
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ActionRefused(Reason.INVALID_ACTION, f"action is not numeric: {error}") from error
    if values.shape != (ACTION_SIZE,):
        raise ActionRefused(Reason.INVALID_ACTION, f"action has shape {values.shape}, needs ({ACTION_SIZE},)")
    numbers = values.tolist()
    if not all(map(math.isfinite, numbers)):
        raise ActionRefused(Reason.INVALID_ACTION, f"action is not finite: {numbers}")
    _refuse_beyond("translation", math.hypot(*numbers[:3]), limits.refuse_translation, "m")
    _refuse_beyond("rotation", math.hypot(*numbers[3:6]), limits.refuse_rotation, "rad")
    _refuse_beyond("gripper", abs(numbers[6] - 0.5), 0.5 + GRIPPER_SLACK, "from the middle")
    return values


def shortened(vector: FloatArray, limit: float) -> FloatArray:
    """Return ``vector``, or one in its direction that is ``limit`` long."""
    length = math.hypot(*vector.tolist())
    return vector if length <= limit else vector * (limit / length)


def _refuse_beyond(what: str, size: float, limit: float, unit: str) -> None:
    if size > limit:
        message = (
            f"action {what} of {size:.3g} {unit} is beyond {limit:.3g} {unit}; check the action statistics"
        )
        raise ActionRefused(Reason.INVALID_ACTION, message)
