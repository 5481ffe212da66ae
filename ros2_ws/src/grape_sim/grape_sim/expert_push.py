"""The expert's strategies without grasping: pushing towards a target, and knocking over.

Stateless like the rest: above a point behind the source, down along a funnel, forward while the gripper is
low and behind it, up again when it is done or has gone astray. A finger's flat outer
side is turned to the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from grape_sim.expert import (
    DOWN,
    FINGER_TIPS,
    FUNNEL_FREE,
    FUNNEL_WIDTH,
    RETREAT_HEIGHT,
    Situation,
    Style,
    slope,
    to_action,
)
from grape_sim.layout import knock_direction
from grape_sim.suite_types import Task

PUSH_HEIGHT = 0.024  # of the end effector at least: finger tips 8 mm above the table
BAR_ROOM = 0.020  # below the bar that carries the fingers, which is wider than they are, m
PUSH_STEP, KNOCK_STEP = 0.022, 0.035  # m an action
KNOCK_SHARE = 0.5  # of the source's height, at which it is knocked
GRIPPER_HALF = 0.019  # of the closed fingers along the way, m
BEHIND = 0.016  # gap to the source at which the gripper comes down, m
ASTRAY = 0.014  # m beside the line at which it goes up and comes back
LOW = 0.012  # m above the working height that still count as low
STOP_SHORT = 0.008  # m inside the task's distance at which the source is let be
FALLING = math.cos(math.radians(50.0))  # cosine of the tilt from which the source falls by itself
BACK = 0.012  # m behind contact at which it goes up when it is done
CLOSED = 0.0
TURNED = 0.3  # rad off its direction with which the gripper may come down


@dataclass(frozen=True)
class _Way:
    """The line along which the source is to go: unit direction (2,), working height and gap left, m."""

    direction: np.ndarray
    height: float
    left: float
    step: float
    contact: float  # from the source's centre to the gripper's, when they touch
    through: float  # where along the way, seen from the source's centre, the gripper is no longer behind


def plan_push(now: Situation, task: Task, style: Style) -> np.ndarray:
    """Return the action (7,) that pushes the source to the target or knocks it over."""
    way = _push_way(now, task) if task.success.kind == "pushed" else _knock_way(now, task)
    if way.left <= 0.0:
        return to_action(now, _retreat(now, way), CLOSED, style, now.end_effector_quaternion)
    orientation = _facing(now, way.direction)
    goal = _goal(now, way, task, style, _is_turned(now, orientation))
    return to_action(now, goal, CLOSED, style, orientation)


def _push_way(now: Situation, task: Task) -> _Way:
    offset = (now.target_position - now.source_position)[:2]
    gap = float(np.hypot(*offset))
    left = gap - (task.success.distance - STOP_SHORT)
    contact = _reach_along(task) + GRIPPER_HALF
    height = max(PUSH_HEIGHT, task.source_shape.solid_top - BAR_ROOM)
    return _Way(offset / max(gap, 1e-6), height, left, PUSH_STEP, contact, 0.012 - contact)


def _knock_way(now: Situation, task: Task) -> _Way:
    """Outward, at half the source's height."""
    direction = np.array(knock_direction(float(now.source_position[1])))
    left = 0.0 if now.source_up < FALLING else 0.05
    shape = task.source_shape
    height = max(KNOCK_SHARE * shape.top + FINGER_TIPS / 2, shape.solid_top - BAR_ROOM)
    return _Way(direction, height, left, KNOCK_STEP, _reach_along(task) + GRIPPER_HALF, 0.04)


def _retreat(now: Situation, way: _Way) -> np.ndarray:
    """Back first, so that the source is not dragged along, then up."""
    hand = now.end_effector_position
    along = float((hand[:2] - now.source_position[:2]) @ way.direction)
    if hand[2] < way.height + LOW and -way.contact - BACK < along < 0.0:
        return np.array([*(hand[:2] - 0.03 * way.direction), hand[2]])
    return np.array([*hand[:2], max(RETREAT_HEIGHT, way.height + 0.05)])


def _reach_along(task: Task) -> float:
    return max(task.source_shape.footprint)


def _goal(now: Situation, way: _Way, task: Task, style: Style, turned: bool) -> np.ndarray:
    hand = now.end_effector_position
    relative = hand[:2] - now.source_position[:2]
    along = float(relative @ way.direction)
    across = relative - along * way.direction
    low = hand[2] < way.height + LOW
    if low and along < way.through and np.hypot(*across) < ASTRAY:
        ahead = way.left + max(0.0, -along - way.contact)
        move = way.direction * min(min(way.step, style.speed), ahead) - 0.8 * across
        return np.array([*(hand[:2] + move), way.height])
    start = now.source_position[:2] - way.direction * (way.contact + BEHIND)
    error = start - hand[:2]
    distance = float(np.hypot(*error))
    travel = max(style.travel_height, task.source_shape.top + FINGER_TIPS + 0.02, way.height + 0.04)
    height = way.height + (travel - way.height) * (slope(distance) if turned else 1.0)
    clear = way.height + 0.02
    lifted = (
        1.0 if distance < FUNNEL_FREE + FUNNEL_WIDTH else float(np.clip((hand[2] - clear) / 0.035, 0.0, 1.0))
    )
    return np.array([*(hand[:2] + lifted * error), height])


def _facing(now: Situation, direction: np.ndarray) -> np.ndarray:
    """Return the orientation xyzw (4,) of a gripper that points down with a finger's outer side to the way.

    A round thing would wedge itself between the fingers otherwise. Of the two turns half a turn apart it is
    the one nearer to the present one.
    """
    present = Rotation.from_quat(now.end_effector_quaternion) * Rotation.from_quat(DOWN).inv()
    x, y, _ = present.apply([0.0, 1.0, 0.0])
    ahead = direction if x * direction[0] + y * direction[1] >= 0.0 else -direction
    yaw = math.atan2(-ahead[0], ahead[1])
    return np.asarray((Rotation.from_euler("z", yaw) * Rotation.from_quat(DOWN)).as_quat())


def _is_turned(now: Situation, orientation: np.ndarray) -> bool:
    turn = Rotation.from_quat(orientation) * Rotation.from_quat(now.end_effector_quaternion).inv()
    return bool(turn.magnitude() < TURNED)
