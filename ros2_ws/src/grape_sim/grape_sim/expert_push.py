"""The expert's strategies without grasping: pushing towards a target, and knocking over.

Stateless like the rest: above a point behind the source, down along a funnel, forward while the gripper is
low and behind it, up again when it is done or has gone astray. The gripper's flat side is turned to the way.
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
from grape_sim.suite_types import Task

PUSH_HEIGHT = 0.024  # of the end effector: finger tips 8 mm above the table
PUSH_STEP, KNOCK_STEP = 0.022, 0.035  # m an action
KNOCK_SHARE = 0.7  # of the source's height, at which it is knocked
GRIPPER_HALF = 0.014  # of the finger pads along the way, m
BEHIND = 0.016  # gap to the source at which the gripper comes down, m
ASTRAY = 0.014  # m beside the line at which it goes up and comes back
LOW = 0.012  # m above the working height that still count as low
STOP_SHORT = 0.008  # m inside the task's distance at which the source is let be
FALLING = math.cos(math.radians(50.0))  # cosine of the tilt from which the source falls by itself
CRADLE = 0.45  # opening of the gripper that keeps a round source between the fingers
MAX_YAW = 1.0  # rad


@dataclass(frozen=True)
class _Way:
    """The line along which the source is to go: unit direction (2,), working height and gap left, m."""

    direction: np.ndarray
    height: float
    left: float
    step: float
    contact: float  # from the source's centre to the gripper's, when they touch


def plan_push(now: Situation, task: Task, style: Style) -> np.ndarray:
    """Return the action (7,) that pushes the source to the target or knocks it over."""
    way = _push_way(now, task) if task.success.kind == "pushed" else _knock_way(now, task)
    gripper = CRADLE if task.success.kind == "pushed" else 0.0
    if way.left <= 0.0:
        retreat = max(RETREAT_HEIGHT, way.height + 0.05)
        goal = np.array([*now.end_effector_position[:2], retreat])
        return to_action(now, goal, gripper, style, now.end_effector_quaternion)
    return to_action(now, _goal(now, way, task, style), gripper, style, _facing(way.direction))


def _push_way(now: Situation, task: Task) -> _Way:
    offset = (now.target_position - now.source_position)[:2]
    gap = float(np.hypot(*offset))
    left = gap - (task.success.distance - STOP_SHORT)
    reach = _reach_along(task)
    return _Way(offset / max(gap, 1e-6), PUSH_HEIGHT, left, PUSH_STEP, reach + GRIPPER_HALF)


def _knock_way(now: Situation, task: Task) -> _Way:
    """Away from the arm's base, at most of the source's height."""
    direction = now.source_position[:2] / max(float(np.hypot(*now.source_position[:2])), 1e-6)
    left = 0.0 if now.source_up < FALLING else 0.05
    height = KNOCK_SHARE * task.source_shape.top + FINGER_TIPS / 2
    return _Way(direction, height, left, KNOCK_STEP, _reach_along(task) + GRIPPER_HALF)


def _reach_along(task: Task) -> float:
    return max(task.source_shape.footprint)


def _goal(now: Situation, way: _Way, task: Task, style: Style) -> np.ndarray:
    hand = now.end_effector_position
    relative = hand[:2] - now.source_position[:2]
    along = float(relative @ way.direction)
    across = relative - along * way.direction
    low = hand[2] < way.height + LOW
    tipping = task.success.kind == "knocked_over" and now.source_up < math.cos(math.radians(8.0))
    if low and (tipping or (along < -way.contact + 0.012 and np.hypot(*across) < ASTRAY)):
        ahead = way.left + max(0.0, -along - way.contact)
        move = way.direction * min(min(way.step, style.speed), ahead) - 0.8 * across
        return np.array([*(hand[:2] + move), way.height])
    start = now.source_position[:2] - way.direction * (way.contact + BEHIND)
    error = start - hand[:2]
    distance = float(np.hypot(*error))
    travel = max(style.travel_height, task.source_shape.top + FINGER_TIPS + 0.02, way.height + 0.04)
    height = way.height + (travel - way.height) * slope(distance)
    clear = way.height + 0.02
    lifted = (
        1.0 if distance < FUNNEL_FREE + FUNNEL_WIDTH else float(np.clip((hand[2] - clear) / 0.035, 0.0, 1.0))
    )
    return np.array([*(hand[:2] + lifted * error), height])


def _facing(direction: np.ndarray) -> np.ndarray:
    """Return the orientation xyzw (4,) of a gripper that points down with its flat side to the way."""
    yaw = math.atan2(direction[1], direction[0])
    yaw = (yaw + math.pi / 2) % math.pi - math.pi / 2  # the gripper looks the same turned by half a turn
    yaw = min(max(yaw, -MAX_YAW), MAX_YAW)
    return np.asarray((Rotation.from_euler("z", yaw) * Rotation.from_quat(DOWN)).as_quat())
