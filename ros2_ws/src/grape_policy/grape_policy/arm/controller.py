"""Cartesian controller: end-effector deltas in, joint targets out; the same in simulation and in the node.

It has no clock and no randomness: time is passed in, so the same calls give the same targets bit for bit.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .clearance import ArmClearance, Violation
from .description import FloatArray, RobotDescription
from .kinematics import ArmKinematics, Pose, rotated, rotation_between
from .limiter import JointLimiter
from .safety import ActionRefused, Reason

ACTION_SIZE = 7
GRIPPER_SLACK = 0.05  # a de-normalised gripper value may lie a little outside 0..1
STILL = 1e-6  # rad, rad/s
MAX_TICK_SECONDS = 0.05  # after a pause the arm goes on from where it is instead of catching up


@dataclass(frozen=True)
class JointTarget:
    """What the driver shall do now: joints (6,) in rad, gripper in metres of one finger."""

    joints: FloatArray
    gripper_m: float


@dataclass(frozen=True)
class _Segment:
    """A straight way from one pose to another, starting at ``start_time`` (s) and taking ``seconds``."""

    start: Pose
    translation: FloatArray
    rotation: FloatArray
    start_time: float
    seconds: float

    def at(self, fraction: float) -> Pose:
        position = self.start.position + fraction * self.translation
        return Pose(position, rotated(fraction * self.rotation, self.start.quaternion))


class CartesianController:
    """Turns actions (7,) into limited joint targets. One owner, one thread; call ``reset`` first.

    A delta moves the *target* pose, which is clamped to the workspace box and spread over
    ``interpolation_seconds``, or longer when actions come so fast that their sum exceeds one step. A target
    that inverse kinematics cannot reach is dropped, and so is one that would bring a link too near to
    another, the table or a keep-out box: the arm holds the last good one (``unreachable`` and ``too_near``
    count those).
    """

    def __init__(self, description: RobotDescription, *, interpolation_seconds: float = 0.1) -> None:
        self._description = description
        self._interpolation_seconds = interpolation_seconds
        self._kinematics = ArmKinematics(description)
        self._clearance = ArmClearance(description)
        self._limiter = JointLimiter(description.velocity, description.acceleration)
        self.unreachable = self.too_near = 0
        self.reset(description.home, description.gripper.open)

    def __copy__(self) -> CartesianController:
        """Return a controller going on from the same state, independent of this one, for saved states."""
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._limiter = copy.copy(self._limiter)  # everything else is replaced, never changed in place
        return clone

    def reset(self, joints: ArrayLike, gripper: float) -> None:
        """Stand still at ``joints`` (6,) rad and ``gripper`` m: the new target is exactly this pose.

        Raises:
            ActionRefused: not six finite joints, or a gripper position that is not finite.
        """
        measured = np.asarray(joints, dtype=np.float64)
        if measured.shape != self._description.home.shape or not np.all(
            np.isfinite([*measured.flat, gripper])
        ):
            message = f"cannot start at joints {joints!r}, gripper {gripper!r}: need 6 finite joints"
            raise ActionRefused(Reason.INVALID_ACTION, message)
        inside = np.clip(measured, self._description.lower, self._description.upper)
        self._limiter.reset(inside)
        self._goal = inside
        self._target = self._kinematics.forward(inside)
        self._segment: _Segment | None = None
        limits = self._description.gripper
        self._gripper = self._gripper_goal = float(np.clip(gripper, limits.closed, limits.open))
        self._last_tick: float | None = None

    @property
    def target_pose(self) -> Pose:
        """The commanded end-effector pose: where the arm ends up when nothing more is commanded."""
        return self._target

    @property
    def gripper_goal_m(self) -> float:
        """The commanded gripper position, metres of one finger."""
        return self._gripper_goal

    @property
    def still(self) -> bool:
        """Whether the commanded joints stand still on their goal."""
        left = np.abs(self._limiter.position - self._goal)
        return bool(max(np.abs(self._limiter.velocity).max(), left.max()) < STILL)

    def command(self, action: ArrayLike, now: float) -> None:
        """Accept one action (7,): translation (m), rotation vector (rad), gripper 0..1; ``now`` in seconds.

        Raises:
            ActionRefused: wrong shape, not finite, or beyond any sensible step; the target stays.
        """
        delta = self._checked(action)
        limits = self._description.step
        translation = _shortened(delta[:3], limits.translation)
        rotation = _shortened(delta[3:6], limits.rotation)
        self._gripper_goal = self._description.gripper.metres(min(max(float(delta[6]), 0.0), 1.0))
        position = self._target.position + _shortened(self._inside(translation), limits.translation)
        target = Pose(position, rotated(rotation, self._target.quaternion))
        solution = self._kinematics.inverse(target, self._goal)
        if not solution.converged:
            self.unreachable += 1
            return
        if self._clearance.check(solution.joints, self._gripper_goal) is not None:
            self.too_near += 1
            return
        self._segment = self._way_to(target, now)
        self._target = target

    def pose_of(self, joints: FloatArray) -> Pose:
        """Return the end effector's pose at ``joints`` (6,) rad."""
        return self._kinematics.forward(joints)

    def stops_too_near(self) -> Violation | None:
        """Return what the arm would be too near to where it comes to rest when it brakes now."""
        return self._clearance.check(self._limiter.stopping_position(), self._gripper)

    def too_near_at(self, joints: FloatArray, gripper_m: float) -> Violation | None:
        """Return what the arm is too near to at ``joints`` (6,) rad and ``gripper_m``."""
        return self._clearance.check(joints, gripper_m)

    def stop_closing(self) -> None:
        """Close the gripper no further than it is commanded now; opening stays possible."""
        self._gripper_goal = max(self._gripper_goal, self._gripper)

    def halt(self) -> None:
        """Give up the target and brake to a stand at the joint limits' deceleration; the gripper holds."""
        self._goal = np.clip(
            self._limiter.stopping_position(), self._description.lower, self._description.upper
        )
        self._segment = None
        self._target = self._kinematics.forward(self._goal)
        self._gripper_goal = self._gripper

    def tick(self, now: float) -> JointTarget:
        """Return the joint target at ``now`` (s); never faster than the limits."""
        seconds = 0.0 if self._last_tick is None else min(now - self._last_tick, MAX_TICK_SECONDS)
        if self._last_tick is None or seconds > 0.0:
            self._last_tick = now
        self._follow(now)
        if seconds > 0.0:
            self._move(seconds)
            reach = self._description.gripper.velocity * seconds
            self._gripper += min(max(self._gripper_goal - self._gripper, -reach), reach)
        return JointTarget(self._limiter.position.copy(), self._gripper)

    def _move(self, seconds: float) -> None:
        """Step towards the goal; brake instead when the end effector would exceed its speed limits."""
        limiter = self._limiter
        start, speed = self._kinematics.forward(limiter.position), limiter.velocity
        before = limiter.position
        end = self._kinematics.forward(limiter.step(self._goal, seconds))
        limits = self._description.speed
        turned = math.hypot(*rotation_between(start.quaternion, end.quaternion))
        if (
            math.hypot(*(end.position - start.position)) > limits.linear * seconds
            or turned > limits.angular * seconds
        ):
            limiter.position, limiter.velocity = before, speed
            limiter.step(limiter.stopping_position(), seconds)

    def _way_to(self, target: Pose, now: float) -> _Segment:
        """Return the way from the present pose of the way to ``target``, no faster than a step a segment."""
        start, limits = self._pose_on_way(now), self._description.step
        translation = target.position - start.position
        rotation = rotation_between(start.quaternion, target.quaternion)
        steps = max(
            math.hypot(*translation) / limits.translation, math.hypot(*rotation) / limits.rotation, 1.0
        )
        return _Segment(start, translation, rotation, now, self._interpolation_seconds * _whole(steps))

    def _follow(self, now: float) -> None:
        """Set the joint goal to the way's pose at ``now``; hold the last one where there is no solution."""
        if self._segment is None:
            return
        result = self._kinematics.inverse(self._pose_on_way(now), self._goal)
        if result.converged:
            self._goal = result.joints
        if self._fraction(self._segment, now) >= 1.0:
            self._segment = None

    def _pose_on_way(self, now: float) -> Pose:
        if self._segment is None:
            return self._target
        return self._segment.at(self._fraction(self._segment, now))

    def _fraction(self, segment: _Segment, now: float) -> float:
        return min(max((now - segment.start_time) / segment.seconds, 0.0), 1.0)

    def _inside(self, translation: FloatArray) -> FloatArray:
        """Return the translation that ends in the workspace box, or on its wall."""
        position = self._target.position
        low, high = self._description.workspace_lower, self._description.workspace_upper
        return np.clip(position + translation, low, high) - position

    def _checked(self, action: ArrayLike) -> FloatArray:
        try:
            values = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ActionRefused(Reason.INVALID_ACTION, f"action is not numeric: {error}") from error
        if values.shape != (ACTION_SIZE,):
            raise ActionRefused(
                Reason.INVALID_ACTION, f"action has shape {values.shape}, needs ({ACTION_SIZE},)"
            )
        if not np.all(np.isfinite(values)):
            raise ActionRefused(Reason.INVALID_ACTION, f"action is not finite: {values.tolist()}")
        limits = self._description.step
        _refuse_beyond("translation", math.hypot(*values[:3]), limits.refuse_translation, "m")
        _refuse_beyond("rotation", math.hypot(*values[3:6]), limits.refuse_rotation, "rad")
        _refuse_beyond("gripper", abs(float(values[6]) - 0.5), 0.5 + GRIPPER_SLACK, "from the middle")
        return values


def _whole(steps: float) -> float:
    """Return 1 for what is one step but for rounding: such an action takes exactly the usual time."""
    return 1.0 if steps < 1.0 + 1e-6 else steps


def _shortened(vector: FloatArray, limit: float) -> FloatArray:
    length = math.hypot(*vector)
    return vector if length <= limit else vector * (limit / length)


def _refuse_beyond(what: str, size: float, limit: float, unit: str) -> None:
    if size > limit:
        message = (
            f"action {what} of {size:.3g} {unit} is beyond {limit:.3g} {unit}; check the action statistics"
        )
        raise ActionRefused(Reason.INVALID_ACTION, message)
