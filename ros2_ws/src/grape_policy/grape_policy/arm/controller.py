"""Cartesian controller: end-effector deltas in, joint targets out; the same in simulation and in the node.

It has no clock and no randomness: time is passed in, so the same calls give the same targets bit for bit.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .actions import checked, shortened
from .chunk import FADE_ACTIONS, Begun, Chunk, Fade, Progress, Segment, segment_between
from .clearance import ArmClearance, Violation
from .description import FloatArray, RobotDescription
from .kinematics import ArmKinematics, Pose, clipped, rotated, rotation_between
from .limiter import JointLimiter
from .safety import ActionRefused, Reason

STILL = 1e-6  # rad, rad/s
_CERTAIN = 1.0 - 1e-6  # a bound below this share of a limit holds whatever the rounding
MAX_TICK_SECONDS = 0.05  # after a pause the arm goes on from where it is instead of catching up


@dataclass(frozen=True)
class JointTarget:
    """What the driver shall do now: joints (n,) in rad, gripper in metres of one finger."""

    joints: FloatArray
    gripper_m: float


class CartesianController:
    """Turns actions (7,) into limited joint targets. One owner, one thread; call ``reset`` first.

    A delta moves the *target* pose, which is clamped to the workspace box and spread over
    ``interpolation_seconds``, or longer when actions come so fast that their sum exceeds one step. A target
    that inverse kinematics cannot reach is dropped, and so is one that would bring a link too near to
    another, the table or a keep-out box: the arm holds the last good one (``unreachable`` and ``too_near``
    count those).

    A chunk of actions is carried out action by action, each as one alone would be but spread over the
    chunk's period; see ``chunk`` for how one goes over into the next.
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
        """Stand still at ``joints`` (n,) rad and ``gripper`` m: the new target is exactly this pose.

        Raises:
            ActionRefused: not n finite joints, or a gripper position that is not finite.
        """
        measured = np.asarray(joints, dtype=np.float64)
        if measured.shape != self._description.home.shape or not np.all(
            np.isfinite([*measured.flat, gripper])
        ):
            count = len(self._description.joints)
            message = f"cannot start at joints {joints!r}, gripper {gripper!r}: need {count} finite joints"
            raise ActionRefused(Reason.INVALID_ACTION, message)
        inside = np.clip(measured, self._description.lower, self._description.upper)
        self._limiter.reset(inside)
        self._goal = inside
        self._target = self._kinematics.forward(inside)
        self._segment: Segment | None = None
        self._waiting: Chunk | None = None
        self._progress: Progress | None = None
        self._fade: Fade | None = None
        self._begun: tuple[Begun, ...] = ()
        limits = self._description.gripper
        self._gripper = self._gripper_goal = float(np.clip(gripper, limits.closed, limits.open))
        self._last_tick: float | None = None

    @property
    def target_pose(self) -> Pose:
        """The commanded end-effector pose: where the arm ends up when nothing more is commanded."""
        return self._target

    @property
    def joints(self) -> FloatArray:
        """The joints (n,) in rad commanded now."""
        return self._limiter.position

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
        delta = checked(action, self._description.step)
        self._drop_chunks()
        target = self._aim(delta, 1.0)
        if target is not None:
            self._segment, self._fade = self._way_to(target, now), None
            self._target = target

    def command_chunk(self, chunk: Chunk, now: float) -> float:
        """Accept a chunk: it begins with the end of the present chunk's action, or with the next tick.

        Returns:
            The time (s) at which its last action will be done.

        Raises:
            ActionRefused: as ``command``, for any of its actions; what goes on goes on.
        """
        for action in chunk.actions:
            checked(action, self._description.step)
        self._waiting = chunk
        return (now if self._progress is None else self._progress.due) + chunk.seconds

    def take_begun(self) -> tuple[Begun, ...]:
        """Return the actions of chunks that began since the last call."""
        begun, self._begun = self._begun, ()
        return begun

    def pose_of(self, joints: FloatArray) -> Pose:
        """Return the end effector's pose at ``joints`` (n,) rad."""
        return self._kinematics.forward(joints)

    def stops_too_near(self) -> Violation | None:
        """Return what the arm would be too near to where it comes to rest when it brakes now."""
        return self._clearance.check(self._limiter.stopping_position(), self._gripper)

    def too_near_at(self, joints: FloatArray, gripper_m: float) -> Violation | None:
        """Return what the arm is too near to at ``joints`` (n,) rad and ``gripper_m``."""
        return self._clearance.check(joints, gripper_m)

    def stop_closing(self) -> None:
        """Close the gripper no further than it is commanded now; opening stays possible."""
        self._gripper_goal = max(self._gripper_goal, self._gripper)

    def halt(self) -> None:
        """Give up the target and brake to a stand at the joint limits' deceleration; the gripper holds."""
        self._goal = np.clip(
            self._limiter.stopping_position(), self._description.lower, self._description.upper
        )
        self._segment = self._fade = None
        self._drop_chunks()
        self._target = self._kinematics.forward(self._goal)
        self._gripper_goal = self._gripper

    def tick(self, now: float) -> JointTarget:
        """Return the joint target at ``now`` (s); never faster than the limits."""
        seconds = 0.0 if self._last_tick is None else min(now - self._last_tick, MAX_TICK_SECONDS)
        if self._last_tick is None or seconds > 0.0:
            self._last_tick = now
        self._begin_due(now)
        self._follow(now)
        if seconds > 0.0:
            self._move(seconds)
            reach = self._description.gripper.velocity * seconds
            self._gripper += min(max(self._gripper_goal - self._gripper, -reach), reach)
        return JointTarget(self._limiter.position.copy(), self._gripper)

    def _move(self, seconds: float) -> None:
        """Step towards the goal; brake instead when the end effector would exceed its speed limits."""
        limiter = self._limiter
        before, speed = limiter.position, limiter.velocity
        if self._too_fast(before, limiter.step(self._goal, seconds), seconds):
            limiter.position, limiter.velocity = before, speed
            limiter.step(limiter.stopping_position(), seconds)

    def _too_fast(self, before: FloatArray, after: FloatArray, seconds: float) -> bool:
        """Whether the end effector would exceed its speed limits; mostly a bound on its way says no."""
        moved, turned = self._kinematics.farthest(after - before)
        far, turn = self._description.speed.linear * seconds, self._description.speed.angular * seconds
        if moved < _CERTAIN * far and turned < _CERTAIN * turn:
            return False
        start, end = self._kinematics.forward(before), self._kinematics.forward(after)
        turned = math.hypot(*rotation_between(start.quaternion, end.quaternion))
        return math.hypot(*(end.position - start.position)) > far or turned > turn

    def _aim(self, delta: FloatArray, share: float) -> Pose | None:
        """Take over the gripper's goal; return the target after ``delta``, or None where it is refused.

        ``share``: of the step limits, for an action that takes less than the usual time.
        """
        self._gripper_goal = self._description.gripper.metres(min(max(float(delta[6]), 0.0), 1.0))
        target = self._stepped(self._target, delta, share)
        refusal = self._refusal(target)
        self.unreachable += refusal == "unreachable"
        self.too_near += refusal == "too near"
        return None if refusal else target

    def _stepped(self, start: Pose, delta: FloatArray, share: float) -> Pose:
        """Return the pose one action after ``start``, with its step shortened and inside the workspace."""
        limits = self._description.step
        translation = shortened(delta[:3], share * limits.translation)
        rotation = shortened(delta[3:6], share * limits.rotation)
        inside = self._inside(start.position, translation)
        position = start.position + shortened(inside, share * limits.translation)
        return Pose(position, rotated(rotation, start.quaternion))

    def _refusal(self, target: Pose) -> str:
        """Return why the target must not be followed; empty when it may."""
        solution = self._kinematics.inverse(target, self._goal)
        if not solution.converged:
            return "unreachable"
        return "too near" if self._clearance.check(solution.joints, self._gripper_goal) is not None else ""

    def _drop_chunks(self) -> None:
        self._waiting = self._progress = None

    def _begin_due(self, now: float) -> None:
        """Begin the actions of chunks that are due by ``now``."""
        if self._progress is None and self._waiting is not None:
            self._take_over(self._waiting, now)
        while self._progress is not None and self._progress.due <= now:
            if self._waiting is not None:
                self._take_over(self._waiting, self._progress.due)
            if self._progress.over:
                self._progress = None
            else:
                self._begin(self._progress)

    def _take_over(self, chunk: Chunk, start: float) -> None:
        """Let ``chunk`` begin at ``start`` (s), with what the way so far would have been fading out."""
        old = self._rest_of_way(start)
        self._fade = Fade(old, start, chunk.fade_seconds) if old else None
        self._waiting, self._progress = None, Progress(chunk, 0, start)

    def _rest_of_way(self, now: float) -> tuple[Segment, ...]:
        """Return what is left at ``now`` of the single action's way, or of the chunk: its next actions."""
        pose, rest = self._pose_on_way(now), []
        if self._progress is None:
            if self._segment is None:
                return ()
            seconds = max((1.0 - self._segment.fraction(now)) * self._segment.seconds, 1e-3)
            return (segment_between(pose, self._target, now, seconds),)
        chunk, target = self._progress.chunk, self._target
        for delta in chunk.actions[self._progress.row :][:FADE_ACTIONS]:
            stepped = self._stepped(target, delta, self._share(chunk))
            target = target if self._refusal(stepped) else stepped
            rest.append(segment_between(pose, target, now, chunk.period))
            pose, now = target, now + chunk.period
        return tuple(rest)

    def _begin(self, progress: Progress) -> None:
        """Begin the next action of a chunk."""
        chunk, start = progress.chunk, self._target
        target = self._aim(chunk.actions[progress.row], self._share(chunk))
        self._segment = None
        if target is not None:
            self._segment, self._target = segment_between(start, target, progress.due, chunk.period), target
        self._begun = (*self._begun, Begun(chunk, progress.row, target is not None))
        self._progress = progress.next()

    def _share(self, chunk: Chunk) -> float:
        """Return the share of a step that an action of the chunk may make: no faster than one alone."""
        return min(1.0, chunk.period / self._interpolation_seconds)

    def _way_to(self, target: Pose, now: float) -> Segment:
        """Return the way from the present pose of the way to ``target``, no faster than a step a segment."""
        start, limits = self._pose_on_way(now), self._description.step
        way = segment_between(start, target, now, self._interpolation_seconds)
        steps = max(
            math.hypot(*way.translation.tolist()) / limits.translation,
            math.hypot(*way.rotation.tolist()) / limits.rotation,
            1.0,
        )
        whole = _whole(steps)
        return way if whole == 1.0 else replace(way, seconds=self._interpolation_seconds * whole)

    def _follow(self, now: float) -> None:
        """Set the joint goal to the way's pose at ``now``; hold the last one where there is no solution."""
        if self._segment is None and self._fade is None:
            return
        result = self._kinematics.inverse(self._pose_on_way(now), self._goal)
        if result.converged:
            self._goal = result.joints
        if self._segment is not None and self._segment.fraction(now) >= 1.0:
            self._segment = None
        if self._fade is not None and self._fade.over(now):
            self._fade = None

    def _pose_on_way(self, now: float) -> Pose:
        pose = self._target if self._segment is None else self._segment.at(now)
        return pose if self._fade is None else self._fade.blended(pose, now)

    def _inside(self, position: FloatArray, translation: FloatArray) -> FloatArray:
        """Return the translation from ``position`` that ends in the workspace box, or on its wall."""
        low, high = self._description.workspace_lower, self._description.workspace_upper
        return clipped(position + translation, low, high) - position


def _whole(steps: float) -> float:
    """Return 1 for what is one step but for rounding: such an action takes exactly the usual time."""
    return 1.0 if steps < 1.0 + 1e-6 else steps
