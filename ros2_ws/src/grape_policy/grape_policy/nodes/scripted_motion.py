"""Motions without a policy: home, and a sweep over the table that scatters what lies there.

They are actions like the policy's, so every limit and guard of the arm holds for them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from grape_policy.arm.description import RobotDescription
from grape_policy.arm.kinematics import ArmKinematics, Pose

STEP, TURN = 0.03, 0.12  # m and rad an action
NEAR, ALIGNED = 0.008, 0.05  # m and rad that count as arrived
STROKES = 3
LOW, HIGH = 0.03, 0.14  # m, the end effector's heights while sweeping and between
CENTRE, RADIUS = np.array([0.31, 0.0]), np.array([0.09, 0.14])  # m, of the swept ellipse on the table
INNER = 0.35  # share of the radii within which a stroke ends
OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True)
class Waypoint:
    """Where the end effector shall be: pose in the base frame, gripper 0 closed .. 1 open."""

    position: np.ndarray
    quaternion: np.ndarray
    gripper: float


def home_waypoint(robot: RobotDescription) -> Waypoint:
    """Return where episodes begin."""
    pose = ArmKinematics(robot).forward(np.asarray(robot.home))
    return Waypoint(pose.position, pose.quaternion, OPEN)


def scatter_waypoints(robot: RobotDescription, seed: int) -> Iterator[Waypoint]:
    """Yield strokes from the rim of the table's middle inwards, so that nothing is pushed out of reach."""
    home, rng = home_waypoint(robot), np.random.default_rng(seed)
    down = home.quaternion
    for _ in range(STROKES):
        angle, inner = rng.uniform(-np.pi, np.pi), rng.uniform(-INNER, INNER, 2)
        start = CENTRE + RADIUS * np.array([np.cos(angle), np.sin(angle)])
        end = CENTRE + RADIUS * inner
        for place, height in ((start, HIGH), (start, LOW), (end, LOW), (end, HIGH)):
            yield Waypoint(np.array([*place, height]), down, CLOSED)


def action_towards(now: Pose, goal: Waypoint) -> np.ndarray:
    """Return the action (7,): a limited step and turn towards ``goal``."""
    turn = (Rotation.from_quat(goal.quaternion) * Rotation.from_quat(now.quaternion).inv()).as_rotvec()
    step = _limited(goal.position - now.position, STEP)
    return np.array([*step, *_limited(turn, TURN), goal.gripper])


def arrived(now: Pose, goal: Waypoint) -> bool:
    """Whether the end effector is where it shall be."""
    turn = (Rotation.from_quat(goal.quaternion) * Rotation.from_quat(now.quaternion).inv()).magnitude()
    return float(np.linalg.norm(goal.position - now.position)) < NEAR and float(turn) < ALIGNED


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)
