"""Joint motion within velocity and acceleration limits, towards any goal that may change at any time."""

from __future__ import annotations

import numpy as np

from .description import FloatArray
from .kinematics import clipped


class JointLimiter:
    """Moves joints to a goal with bounded velocity and acceleration, braking in time to stop on it.

    While every goal lies inside the joint limits the joints do too: the braking distance
    ``v dt + v^2 / 2a`` never exceeds what is left to the goal, and a later goal leaves at least full braking.
    """

    def __init__(self, velocity: FloatArray, acceleration: FloatArray) -> None:
        self._velocity_limit, self._acceleration_limit = velocity, acceleration
        self.position = np.zeros_like(velocity)
        self.velocity = np.zeros_like(velocity)

    def reset(self, position: FloatArray) -> None:
        """Stand still at ``position``."""
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros_like(self.position)

    def step(self, goal: FloatArray, seconds: float) -> FloatArray:
        """Advance by ``seconds`` > 0 towards ``goal`` and return the new position."""
        a, left = self._acceleration_limit, goal - self.position
        # The fastest speed v from which v dt + v^2 / 2a still ends on the goal.
        braking = a * (np.sqrt(seconds**2 + 2.0 * np.abs(left) / a) - seconds)
        wanted = np.sign(left) * np.minimum(braking, self._velocity_limit)
        change = a * seconds
        self.velocity = clipped(wanted, self.velocity - change, self.velocity + change)
        self.position = self.position + self.velocity * seconds
        return self.position

    def stopping_position(self) -> FloatArray:
        """Return where the joints come to rest when they brake now."""
        return self.position + np.sign(self.velocity) * self.velocity**2 / (2.0 * self._acceleration_limit)
