"""The arm's control loop without ROS: one owner of controller, safety state and driver, with its watchdogs.

Every method runs in the same thread and takes the time (monotonic s) from the caller. Only ``tick`` moves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grape_policy.loop_timer import Mark, unmarked

from .chunk import Begun, make_chunk
from .clearance import Violation
from .controller import CartesianController
from .description import RobotDescription
from .drivers import ArmDriver, JointMeasurement
from .kinematics import rotation_between
from .safety import ActionRefused, Reason, SafetySupervisor, State, Status
from .watchdogs import Fault, Heartbeats, ImageWatch, Tracking

MEASURED_SLACK = 0.05  # rad a joint may be measured beyond its limit
# rad between a measured joint and the commanded one, from which on both are checked for clearance
ELSEWHERE = 0.2
DEFAULT_PERIOD = 0.2  # s between two actions of a policy


@dataclass(frozen=True)
class Timeouts:
    """Seconds of silence until the arm stops itself, and the oldest image (s) an action may come from.

    ``overdue`` counts from the moment the next action was due, the others from the last sign of life.
    """

    overdue: float = 0.09
    joint_states: float = 0.25
    observation: float = 1.0
    heartbeat: float = 0.25
    image: float = 0.3


class ArmLoop:
    """Follows actions while armed; brakes and holds, with one reason, when anything is wrong.

    From the first action of an episode to its end it also watches that actions keep coming, that the nodes
    named ``watched`` beat, and, with ``watch_images``, that images are fresh.
    """

    def __init__(
        self,
        description: RobotDescription,
        driver: ArmDriver,
        *,
        timeouts: Timeouts | None = None,
        period: float = DEFAULT_PERIOD,
        interpolation_seconds: float = 0.1,
        watched: Sequence[str] = (),
        watch_images: bool = False,
        mark: Mark = unmarked,
    ) -> None:
        self._description, self._driver, self._mark = description, driver, mark
        self._timeouts, self._period = timeouts or Timeouts(), period
        self._heartbeats = Heartbeats(watched, self._timeouts.heartbeat)
        self._images = ImageWatch(self._timeouts.image) if watch_images else None
        self._controller = CartesianController(description, interpolation_seconds=interpolation_seconds)
        self._supervisor = SafetySupervisor()
        self._tracking = Tracking()
        self._due: float | None = None  # when the next action is; None: none was followed since arming
        self._following_since = 0.0  # the first action of this episode

    @property
    def status(self) -> Status:
        """Safety state, its reason and the reason in words."""
        return self._supervisor.status

    @property
    def still(self) -> bool:
        """Whether the arm's target stands still."""
        return self._controller.still

    @property
    def unreachable(self) -> int:
        """How many targets inverse kinematics could not reach since start."""
        return self._controller.unreachable

    @property
    def too_near(self) -> int:
        """How many targets were not followed because a link would have come too near to something."""
        return self._controller.too_near

    def arm(self, now: float) -> tuple[bool, str]:
        """Arm with the measured pose as the new target; return success and a message."""
        measured = self._driver.read()
        if measured is None or self._stale(measured, now):
            return False, "no fresh joint states: is the arm's driver (or the simulation) running?"
        if self.status.state == State.EMERGENCY_STOPPED:
            return False, self.status.message
        if self.status.state != State.ARMED:  # arming twice must not move the target
            refusal = self._refusal_at(measured)
            if refusal:
                return False, refusal
            self._controller.reset(measured.joints, measured.gripper_m)
            self._tracking = Tracking()
            self._due = None
        return True, self._supervisor.arm().message

    def disarm(self) -> str:
        """Brake to a stand, then have the driver hold the last target. Return a message."""
        self._halt()
        return self._supervisor.disarm().message

    def emergency_stop(self, engage: bool) -> str:
        """Latch the emergency stop and brake, or clear it into the disarmed state. Return a message."""
        if not engage:
            return self._supervisor.clear_emergency_stop().message
        self._halt()
        return self._supervisor.emergency_stop().message

    def stop(self, reason: Reason, message: str) -> None:
        """Brake to a stand and hold; the first reason stays until the arm is armed again."""
        self._halt()
        self._supervisor.stop(reason, message)

    def beat(self, name: str, now: float) -> None:
        """Note a heartbeat of the node ``name``."""
        self._heartbeats.beat(name, now)

    def see(self, stamp_ns: int, digest: int, now: float, age: float = 0.0) -> None:
        """Note an image by its stamp, a digest of its content and its age (s) by the stamp."""
        measured = self._driver.read()
        if self._images is not None and measured is not None:
            position = self._controller.pose_of(measured.joints).position
            self._images.see(stamp_ns, digest, position, now, age)

    def act(self, action: ArrayLike, observation_age: float, now: float) -> str:
        """Follow one action (7,) computed from an image ``observation_age`` seconds old.

        Returns:
            Why it was not followed, empty when it was. An invalid action stops the arm; an outdated one is
            only dropped, and the watchdog stops the arm when nothing better comes.
        """

        def command() -> float:
            self._controller.command(action, now)
            return now + self._period

        return self._obey(command, observation_age, now)

    def act_chunk(
        self, actions: ArrayLike, period: float, name: object, observation_age: float, now: float
    ) -> str:
        """Follow a chunk of actions (n, 7), one every ``period`` (s); otherwise as ``act``.

        ``name`` comes back in ``begun``. The next action is due when the chunk is over.
        """

        def command() -> float:
            return self._controller.command_chunk(make_chunk(actions, period, name), now)

        return self._obey(command, observation_age, now)

    def begun(self) -> tuple[Begun, ...]:
        """Return the actions of chunks that began since the last call."""
        return self._controller.take_begun()

    def episode_ended(self) -> None:
        """No more actions are due: the arm comes to rest on its target and the command watchdog sleeps."""
        self._due = None

    def tick(self, now: float) -> None:
        """Check the watchdogs and write the next joint target."""
        self._check(now)
        self._mark("check")
        try:
            if not self._supervisor.armed and self._controller.still:
                self._driver.hold(now)
                return
            target = self._controller.tick(now)
            self._mark("ik")
            self._driver.write(target, now)
            self._mark("write")
        except (OSError, RuntimeError) as error:
            self.stop(Reason.DRIVER_FAULT, f"the driver failed: {error}")

    def _obey(self, command: Callable[[], float], observation_age: float, now: float) -> str:
        """Run ``command``, which returns when the next one is due, unless it must not be followed."""
        if not self._supervisor.armed:
            return f"not armed: {self.status.message}"
        if not abs(observation_age) <= self._timeouts.observation:
            limit = self._timeouts.observation
            return f"its image is {observation_age:.3f} s old (limit {limit:g} s); are the clocks in step?"
        try:
            due = command()
        except ActionRefused as refusal:
            self.stop(refusal.reason, str(refusal))
            return str(refusal)
        if self._due is None:
            self._following_since = now
        self._due = due
        return ""

    def _halt(self) -> None:
        if self._supervisor.armed:
            self._controller.halt()

    def _refusal_at(self, measured: JointMeasurement) -> str:
        """Return why the arm must not be armed where it is; empty when it may."""
        if not self._controller.still:
            return "the arm is still braking; try again in a moment"
        if not np.all(np.isfinite([*measured.joints, measured.gripper_m])):
            return "the measured joints are not finite; check the driver"
        outside = self._outside_limits(measured)
        if outside:
            return f"{outside}; move it back by hand"
        violation = self._controller.too_near_at(measured.joints, measured.gripper_m)
        return f"{violation}; move the arm away by hand" if violation else ""

    def _check(self, now: float) -> None:
        """Stop for the first thing that is wrong; more can be, but one reason is published."""
        if not self._supervisor.armed:
            return
        for check in (self._check_measured, self._check_following, self._check_clearance):
            fault = check(now)
            if fault is not None:
                self.stop(fault.reason, fault.message)
                return

    def _check_measured(self, now: float) -> Fault | None:
        measured = self._driver.read()
        self._mark("read")
        if measured is None or self._stale(measured, now):
            message = f"no joint states for {self._timeouts.joint_states:g} s"
            return Fault(Reason.JOINT_STATES_STALE, message)
        if not np.all(np.isfinite(measured.joints)):
            return Fault(Reason.DRIVER_FAULT, "the measured joints are not finite")
        if (measured.gripper_force or 0.0) > self._description.gripper.force:
            self._controller.stop_closing()
        outside = self._outside_limits(measured)
        if outside:
            return Fault(Reason.JOINT_LIMIT, outside)
        return self._tracking.check(*self._lag(measured), now)

    def _lag(self, measured: JointMeasurement) -> tuple[float, float]:
        """Return how far (m, rad) the end effector is from where the controller has it now."""
        controller = self._controller
        there, here = controller.pose_of(controller.joints), controller.pose_of(measured.joints)
        turn = rotation_between(here.quaternion, there.quaternion)
        return math.dist(there.position, here.position), math.hypot(*turn)

    def _check_following(self, now: float) -> Fault | None:
        """Check what must keep coming while actions are followed."""
        if self._due is None:
            return None
        fault = self._heartbeats.check(self._following_since, now)
        if fault is None and self._images is not None:
            fault = self._images.check(self._following_since, now)
        if fault is None and now - self._due > self._timeouts.overdue:
            fault = Fault(Reason.STALE_COMMAND, f"the next action is {now - self._due:.2f} s overdue")
        return fault

    def _check_clearance(self, now: float) -> Fault | None:
        violation = self._controller.stops_too_near() or self._elsewhere_too_near()
        return Fault(violation.reason, str(violation)) if violation else None

    def _elsewhere_too_near(self) -> Violation | None:
        """Check the measured joints too where they differ: a Cartesian controller has its own redundancy."""
        measured = self._driver.read()
        if measured is None or np.abs(measured.joints - self._controller.joints).max() < ELSEWHERE:
            return None
        return self._controller.too_near_at(measured.joints, measured.gripper_m)

    def _outside_limits(self, measured: JointMeasurement) -> str:
        robot = self._description
        beyond = np.maximum(robot.lower - measured.joints, measured.joints - robot.upper)
        worst = int(np.argmax(beyond))
        if beyond[worst] <= MEASURED_SLACK:
            return ""
        return f"joint {robot.joints[worst]} is {beyond[worst]:.2f} rad beyond its limit"

    def _stale(self, measured: JointMeasurement, now: float) -> bool:
        return now - measured.time > self._timeouts.joint_states
