"""The arm's control loop without ROS: one owner of controller, safety state and driver, with its watchdogs.

Every method runs in the same thread and takes the time (monotonic s) from the caller. Only ``tick`` moves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .controller import CartesianController
from .description import RobotDescription
from .drivers import ArmDriver, JointMeasurement
from .safety import ActionRefused, Reason, SafetySupervisor, State, Status


@dataclass(frozen=True)
class Timeouts:
    """Seconds until the arm stops itself, and the oldest image (s) an action may be computed from."""

    command: float = 1.0
    joint_states: float = 0.5
    observation: float = 1.0


class ArmLoop:
    """Follows actions while armed; brakes and holds, with one reason, when anything is wrong."""

    def __init__(
        self,
        description: RobotDescription,
        driver: ArmDriver,
        *,
        timeouts: Timeouts | None = None,
        interpolation_seconds: float = 0.1,
    ) -> None:
        self._driver = driver
        self._timeouts = timeouts or Timeouts()
        self._controller = CartesianController(description, interpolation_seconds=interpolation_seconds)
        self._supervisor = SafetySupervisor()
        self._last_action: float | None = None  # None: no action since arming, so none can be late

    @property
    def status(self) -> Status:
        """Safety state, its reason and the reason in words."""
        return self._supervisor.status

    @property
    def unreachable(self) -> int:
        """How many targets inverse kinematics could not reach since start."""
        return self._controller.unreachable

    def arm(self, now: float) -> tuple[bool, str]:
        """Arm with the measured pose as the new target; return success and a message."""
        measured = self._driver.read()
        if measured is None or self._stale(measured, now):
            return False, "no fresh joint states: is the arm's driver (or the simulation) running?"
        if self.status.state == State.EMERGENCY_STOPPED:
            return False, self.status.message
        if self.status.state != State.ARMED:  # arming twice must not move the target
            try:
                self._controller.reset(measured.joints, measured.gripper_m)
            except ActionRefused as refusal:
                return False, str(refusal)
            self._last_action = None
        return True, self._supervisor.arm().message

    def disarm(self) -> str:
        """Stop writing to the driver at once; it holds the last target. Return a message."""
        return self._supervisor.disarm().message

    def emergency_stop(self, engage: bool) -> str:
        """Latch the emergency stop, or clear it into the disarmed state. Return a message."""
        if engage:
            return self._supervisor.emergency_stop().message
        return self._supervisor.clear_emergency_stop().message

    def stop(self, reason: Reason, message: str) -> None:
        """Brake to a stand and hold; the first reason stays until the arm is armed again."""
        if self._supervisor.armed:
            self._supervisor.stop(reason, message)
            self._controller.halt()

    def act(self, action: ArrayLike, observation_age: float, now: float) -> str:
        """Follow one action (7,) computed from an image ``observation_age`` seconds old.

        Returns:
            Why it was not followed, empty when it was. An invalid action stops the arm; an outdated one is
            only dropped, and the watchdog stops the arm when nothing better comes.
        """
        if not self._supervisor.armed:
            return f"not armed: {self.status.message}"
        if not abs(observation_age) <= self._timeouts.observation:
            limit = self._timeouts.observation
            return f"its image is {observation_age:.3f} s old (limit {limit:g} s); are the clocks in step?"
        try:
            self._controller.command(action, now)
        except ActionRefused as refusal:
            self.stop(refusal.reason, str(refusal))
            return str(refusal)
        self._last_action = now
        return ""

    def episode_ended(self) -> None:
        """No more actions are due: the arm comes to rest on its target and the command watchdog sleeps."""
        self._last_action = None

    def tick(self, now: float) -> None:
        """Check the watchdogs and write the next joint target."""
        self._check(now)
        moving = self._supervisor.armed or (self.status.state == State.STOPPED and not self._controller.still)
        if not moving:
            return
        try:
            self._driver.write(self._controller.tick(now), now)
        except (OSError, RuntimeError) as error:
            self.stop(Reason.DRIVER_FAULT, f"the driver failed: {error}")

    def _check(self, now: float) -> None:
        measured = self._driver.read()
        if measured is None or self._stale(measured, now):
            self.stop(Reason.JOINT_STATES_STALE, f"no joint states for {self._timeouts.joint_states:g} s")
        elif not np.all(np.isfinite(measured.joints)):
            self.stop(Reason.DRIVER_FAULT, "the measured joints are not finite")
        if self._last_action is not None and now - self._last_action > self._timeouts.command:
            self.stop(Reason.STALE_COMMAND, f"no action for {self._timeouts.command:g} s")

    def _stale(self, measured: JointMeasurement, now: float) -> bool:
        return now - measured.time > self._timeouts.joint_states
