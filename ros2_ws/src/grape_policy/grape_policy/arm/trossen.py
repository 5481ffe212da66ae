"""Trossen's WidowX AI through the vendor's library ``trossen-arm``: joint positions at the control rate.

The library talks to the arm's controller in a thread of its own. It says nothing when answers stop coming;
the number of the newest answer tells.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import numpy as np

from .controller import JointTarget
from .description import RobotDescription
from .drivers import JointMeasurement

ANSWER_TIMEOUT = 0.2  # s without an answer of the controller; it answers many times a control tick
CONNECT_SECONDS = 5.0
GOAL_SECONDS = 0.02  # two control ticks: the library moves linearly to a position within this time


class TrossenDriver:
    """One WidowX AI. Its joints are braked until the first target, and braked again by ``close``."""

    def __init__(self, description: RobotDescription, address: str) -> None:
        """Connect to the controller at the IP ``address``.

        Raises:
            RuntimeError: the library is missing, nothing answers, the controller is in an error state, or its
                joint limits are narrower than the description's.
        """
        self._vendor = _vendor()
        self._address = address
        self._arm: Any = self._vendor.TrossenArmDriver()
        follower = self._vendor.StandardEndEffector.wxai_v0_follower
        self._arm.configure(self._vendor.Model.wxai_v0, follower, address, False, timeout=CONNECT_SECONDS)
        self._measured: JointMeasurement | None = None
        self._answer, self._answered = -1, time.monotonic()
        self._moving = False
        try:
            self._check_limits(description)
        except RuntimeError:
            self.close()
            raise

    def write(self, target: JointTarget, now: float) -> None:
        """Send a joint target; the first one releases the brakes.

        Raises:
            RuntimeError: the controller does not answer, or reports an error.
        """
        self._require_answers(now)
        try:
            if not self._moving:
                self._arm.set_all_modes(self._vendor.Mode.position)
                self._moving = True
            positions = self._vendor.VectorDouble([*target.joints, target.gripper_m])
            self._arm.set_all_positions(positions, GOAL_SECONDS, False)
        except self._vendor.LogicError as error:
            raise RuntimeError(f"the arm refused a target: {error}") from error

    def hold(self, now: float) -> None:
        """Stay: its controller holds the last position."""

    def read(self) -> JointMeasurement | None:
        """Return the newest answer of the controller, stamped with the time it was first seen."""
        try:
            output = self._arm.get_robot_output()
        except RuntimeError:
            return self._measured  # grows stale, and the next write says why
        if output.header.id != self._answer:
            self._answer, self._answered = output.header.id, time.monotonic()
            positions = np.array(output.joint.all.positions)
            force = abs(float(output.joint.gripper.external_effort))
            self._measured = JointMeasurement(positions[:-1], float(positions[-1]), self._answered, force)
        return self._measured

    def close(self) -> None:
        """Brake the joints and disconnect; takes up to 5 s when the controller no longer answers."""
        self._arm.cleanup()

    def _require_answers(self, now: float) -> None:
        self.read()
        if now - self._answered > ANSWER_TIMEOUT:
            raise RuntimeError(f"no answer from the arm at {self._address}; check power, cable and e-stop")

    def _check_limits(self, description: RobotDescription) -> None:
        limits = self._arm.get_joint_limits()[:-1]
        for name, low, high, limit in zip(
            description.joints, description.lower, description.upper, limits, strict=True
        ):
            if low < limit.position_min - 1e-4 or high > limit.position_max + 1e-4:
                allowed = f"{limit.position_min:.2f} .. {limit.position_max:.2f}"
                raise RuntimeError(
                    f"the arm at {self._address} allows {name} {allowed} rad, {description.name}.yaml "
                    f"{low:.2f} .. {high:.2f}; narrow the description"
                )


def _vendor() -> ModuleType:
    try:
        import trossen_arm
    except ImportError as error:
        hint = ".venv/bin/pip install trossen-arm -c constraints.txt"
        raise RuntimeError(
            f"driver trossen needs the vendor's library ({error}); install it:  {hint}"
        ) from error
    vendor: ModuleType = trossen_arm
    return vendor
