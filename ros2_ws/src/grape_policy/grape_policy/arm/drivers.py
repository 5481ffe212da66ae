"""What moves the joints: the small interface every arm driver has, and a kinematic arm in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .controller import JointTarget
from .description import FloatArray, RobotDescription


@dataclass(frozen=True)
class JointMeasurement:
    """Measured joints (6,) rad and gripper (m of one finger) at ``time`` (s, the caller's clock).

    ``gripper_force`` is the closing force in N, where the driver can tell it.
    """

    joints: FloatArray
    gripper_m: float
    time: float
    gripper_force: float | None = None


class ArmDriver(Protocol):
    """One arm. Every method is called from the control loop's thread and must return at once."""

    def write(self, target: JointTarget, now: float) -> None:
        """Send a joint target."""

    def read(self) -> JointMeasurement | None:
        """Return the newest measurement, or None before the first one."""

    def close(self) -> None:
        """Release the arm; it holds where it is."""


class MockDriver:
    """An arm without mass or delay: it is at once where it is told to be. Starts at home, open."""

    def __init__(self, description: RobotDescription) -> None:
        self._measured = JointMeasurement(description.home.copy(), description.gripper.open, 0.0)

    def write(self, target: JointTarget, now: float) -> None:
        """Take over the target."""
        self._measured = JointMeasurement(target.joints.copy(), target.gripper_m, now)

    def read(self) -> JointMeasurement:
        """Return the last target."""
        return self._measured

    def close(self) -> None:
        """Nothing to release."""
