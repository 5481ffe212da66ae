"""What moves the joints: the small interface every arm driver has, and a kinematic arm in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .description import FloatArray, RobotDescription

if TYPE_CHECKING:
    from .controller import JointTarget

REAL_DRIVERS = ("servo", "joint_trajectory", "cartesian_pose", "trossen")  # these move iron
DRIVERS = ("sim", "mock", *REAL_DRIVERS)


def combination_error(driver: str, model: str) -> str:
    """Return why ``driver`` cannot move an arm of this model, and what can; empty when it can."""
    if driver not in DRIVERS:
        return f"driver {driver!r} is not known; set driver to one of {', '.join(DRIVERS)}"
    if driver == "sim" and model != "wx250s":
        return f"driver sim simulates the wx250s, not a {model}; use robot wx250s or driver mock"
    if driver == "trossen" and model != "wxai":
        return f"driver trossen moves Trossen's WidowX AI, not a {model}; use robot wxai or another driver"
    return ""


@dataclass(frozen=True)
class JointMeasurement:
    """Measured joints (n,) rad and gripper (m of one finger) at ``time`` (s, the caller's clock).

    ``gripper_force`` is the closing force in N, where the driver can tell it.
    """

    joints: FloatArray
    gripper_m: float
    time: float
    gripper_force: float | None = None


class ArmDriver(Protocol):
    """One arm. Every method is called from the control loop's thread and must return at once.

    ``write`` and ``hold`` raise OSError or RuntimeError when the arm cannot be commanded: the loop stops.
    """

    def write(self, target: JointTarget, now: float) -> None:
        """Send a joint target."""

    def hold(self, now: float) -> None:
        """Make sure that the arm stays where it is; called instead of ``write`` while it is not armed."""

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

    def hold(self, now: float) -> None:
        """Stay: an arm without mass does."""

    def read(self) -> JointMeasurement:
        """Return the last target."""
        return self._measured

    def close(self) -> None:
        """Nothing to release."""
