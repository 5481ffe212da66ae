"""Forward and inverse kinematics of the arm on a MuJoCo model without geometry.

Inverse kinematics is damped least squares with joint limits (Buss 2004, "Introduction to inverse kinematics
with Jacobian transpose, pseudoinverse and damped least squares methods"), started at the present joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from .description import FloatArray, RobotDescription
from .model import END_EFFECTOR_SITE
from .models import arm_spec

POSITION_TOLERANCE = 1e-4  # m
ROTATION_TOLERANCE = 5e-4  # rad
_MAX_ITERATIONS = 29
_DAMPING = 1e-5  # small: far from singular poses it must not slow convergence
_HOMING = 0.02  # share of the way home a solve may take in the directions that do not move the end effector
_MAX_JOINT_STEP = 0.4  # rad an iteration, keeps the solver in the branch it started in


@dataclass(frozen=True)
class Pose:
    """Position (3,) in m and unit quaternion xyzw (4,) of the end effector in the base frame."""

    position: FloatArray
    quaternion: FloatArray


@dataclass(frozen=True)
class InverseResult:
    """Joints (n,) in rad, what is left of the error (m, rad), and whether it is within tolerance."""

    joints: FloatArray
    position_error: float
    rotation_error: float
    iterations: int

    @property
    def converged(self) -> bool:
        """Whether the joints reach the pose to 0.1 mm and 0.03 degrees."""
        return _within_tolerance(self.position_error, self.rotation_error)


class ArmKinematics:
    """Kinematics of one arm; holds scratch memory, so each thread needs its own."""

    def __init__(self, description: RobotDescription) -> None:
        self._description = description
        spec = arm_spec(description.model, description.joints)
        for geom in list(spec.geoms):
            spec.delete(geom)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        joints = [self._model.joint(name) for name in description.joints]
        self._joints = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._site = self._model.site(END_EFFECTOR_SITE).id
        # Views of MuJoCo's memory: asking for them anew costs as much as the kinematics.
        self._qpos = self._data.qpos
        self._position, self._rotation = self._data.site_xpos[self._site], self._data.site_xmat[self._site]
        self._redundant = len(joints) > 6
        self._jacobian = np.zeros((6, self._model.nv))
        self._linear, self._angular = self._jacobian[:3], self._jacobian[3:]
        self._quaternion, self._inverse, self._difference = np.zeros(4), np.zeros(4), np.zeros(4)
        self._placed = b""  # the joints at which the poses are now
        reach = [self._reach(joint.id) for joint in joints]
        self._bounds = np.array([reach, np.ones(len(reach))]).T

    def forward(self, joints: FloatArray) -> Pose:
        """Return the end effector's pose at ``joints`` (n,) rad."""
        self._place(joints)
        return Pose(self._position.copy(), self._quaternion[[1, 2, 3, 0]])

    def farthest(self, turns: FloatArray) -> tuple[float, float]:
        """Return how far (m, rad) the end effector moves at most when joints turn by ``turns`` (6,) rad."""
        moved, turned = (np.abs(turns) @ self._bounds).tolist()
        return moved, turned

    def inverse(self, pose: Pose, start_joints: FloatArray) -> InverseResult:
        """Return joints that reach ``pose``, or come near it, searching from ``start_joints`` (n,) rad.

        A pose out of reach is not an error: look at ``converged`` of the result.
        """
        limits = self._description
        joints = clipped(start_joints, limits.lower, limits.upper)
        goal = pose.quaternion[[3, 0, 1, 2]]
        error, iterations = self._error(joints, pose.position, goal), 0
        sizes = _sizes(error)
        while not _within_tolerance(*sizes) and iterations < _MAX_ITERATIONS:
            step = self._step(error)
            if iterations == 0 and self._redundant:
                step = step + self._towards_home(joints)
            joints = clipped(joints + step, limits.lower, limits.upper)
            error, iterations = self._error(joints, pose.position, goal), iterations + 1
            sizes = _sizes(error)
        return InverseResult(joints, *sizes, iterations)

    def _place(self, joints: FloatArray) -> None:
        """Bring the poses up to ``joints``; a solve starts where the last one ended, so often they are."""
        content = joints.tobytes()
        if content == self._placed:
            return
        self._qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mju_mat2Quat(self._quaternion, self._rotation)
        self._placed = content

    def _error(self, joints: FloatArray, position: FloatArray, goal_wxyz: FloatArray) -> FloatArray:
        """Return the twist (6,) from the pose at ``joints`` to the goal, in the base frame (m, rad)."""
        self._place(joints)
        error = np.empty(6)
        np.subtract(position, self._position, out=error[:3])
        mujoco.mju_negQuat(self._inverse, self._quaternion)
        mujoco.mju_mulQuat(self._difference, goal_wxyz, self._inverse)
        mujoco.mju_quat2Vel(error[3:], self._difference, 1.0)
        return error

    def _towards_home(self, joints: FloatArray) -> FloatArray:
        """Return a small joint step (n,) towards home that leaves the pose as it is, after ``_step``.

        Without it a seventh joint drifts from pose to pose, in the end to a joint limit.
        """
        jacobian = self._jacobian[:, self._dofs]
        pull = _HOMING * (self._description.home - joints)
        return pull - np.linalg.pinv(jacobian) @ (jacobian @ pull)

    def _step(self, error: FloatArray) -> FloatArray:
        """Return the damped least-squares joint step J^T (J J^T + d I)^-1 e, shortened if it is too long."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._linear, self._angular, self._site)
        jacobian = self._jacobian[:, self._dofs]
        squared = jacobian @ jacobian.T
        squared.flat[::7] += _DAMPING
        step = jacobian.T @ np.linalg.solve(squared, error)
        largest = max(map(abs, step.tolist()))
        return step if largest <= _MAX_JOINT_STEP else step * (_MAX_JOINT_STEP / largest)

    def _reach(self, joint: int) -> float:
        """Return a length (m) that the end effector's distance from the axis of a hinge never exceeds."""
        model = self._model
        hinged, body = int(model.jnt_bodyid[joint]), int(model.site_bodyid[self._site])
        offsets = [model.site_pos[self._site], model.jnt_pos[joint]]
        while body != hinged:
            offsets.append(model.body_pos[body])
            body = int(model.body_parentid[body])
        return float(np.linalg.norm(offsets, axis=1).sum())


def _sizes(twist: FloatArray) -> tuple[float, float]:
    x, y, z, *turn = twist.tolist()
    return math.hypot(x, y, z), math.hypot(*turn)


def _within_tolerance(metres: float, radians: float) -> bool:
    return metres <= POSITION_TOLERANCE and radians <= ROTATION_TOLERANCE


def clipped(values: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return ``values`` within [low, high]; for a few numbers much faster than ``np.clip``."""
    return np.minimum(np.maximum(values, low), high)


# Scalar operations: arrays and scipy's Rotation would take twenty times as long, and there are many a step.
_Quaternion = tuple[float, float, float, float]  # xyzw
_SMALL_ANGLE = 1e-3  # rad, below it series keep all digits


def rotated(rotation_vector: FloatArray, quaternion: FloatArray) -> FloatArray:
    """Return the quaternion xyzw after a further rotation vector (rad, base frame): exp(r) R."""
    x, y, z = rotation_vector.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    square = angle * angle
    small = angle <= _SMALL_ANGLE
    scale = 0.5 - square / 48.0 + square * square / 3840.0 if small else math.sin(angle / 2.0) / angle
    turn = (scale * x, scale * y, scale * z, math.cos(angle / 2.0))
    return np.array(_canonical(_unit(_product(turn, _unit(quaternion.tolist())))))


def rotation_between(start: FloatArray, end: FloatArray) -> FloatArray:
    """Return the rotation vector (rad, base frame) that turns ``start`` into ``end``, both xyzw."""
    x, y, z, w = _unit(start.tolist())
    x, y, z, w = _canonical(_unit(_product(_unit(end.tolist()), (-x, -y, -z, w))))
    angle = 2.0 * math.atan2(math.sqrt(x * x + y * y + z * z), w)
    square = angle * angle
    small = angle <= _SMALL_ANGLE
    scale = 2.0 + square / 12.0 + 7.0 * square * square / 2880.0 if small else angle / math.sin(angle / 2.0)
    return np.array([scale * x, scale * y, scale * z])


def _unit(quaternion: Sequence[float]) -> _Quaternion:
    x, y, z, w = quaternion
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def _product(a: _Quaternion, b: _Quaternion) -> _Quaternion:
    return (
        a[3] * b[0] + b[3] * a[0] + (a[1] * b[2] - a[2] * b[1]),
        a[3] * b[1] + b[3] * a[1] + (a[2] * b[0] - a[0] * b[2]),
        a[3] * b[2] + b[3] * a[2] + (a[0] * b[1] - a[1] * b[0]),
        a[3] * b[3] - a[0] * b[0] - a[1] * b[1] - a[2] * b[2],
    )


def _canonical(quaternion: _Quaternion) -> _Quaternion:
    """Choose of q and -q, the same rotation, the one with w > 0 (or else the first other part positive)."""
    x, y, z, w = quaternion
    return quaternion if (w, x, y, z) >= (0.0, 0.0, 0.0, 0.0) else (-x, -y, -z, -w)
