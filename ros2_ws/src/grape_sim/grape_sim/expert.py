"""Scripted expert: a stateless, reactive rule from the physical situation to one action.

It is a pure function of where the gripper, the source and the target are, so that any state can be labelled,
also one off its own path. All moves are proportional with a speed limit: above the source, down along
a funnel, close, lift, above the target, down along a funnel, open, retreat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from grape_sim.objects import OBJECTS
from grape_sim.tasks import Task, find_task

if TYPE_CHECKING:
    from grape_sim.environment import SimEnvironment

DOWN = np.array(
    [0.0, 0.7071067811865476, 0.0, 0.7071067811865476]
)  # xyzw: gripper straight down, fingers along y
MAX_STEP = 0.04  # m an action
MAX_TURN = 0.15  # rad an action
TRAVEL_HEIGHT = 0.10  # end effector's height when it moves sideways, clears every object
RETREAT_HEIGHT = 0.12
MIN_GRASP_HEIGHT = 0.019  # finger tips 3 mm above the table
RELEASE_CLEARANCE = 0.004  # above contact, so that the source is laid down and not pressed
CLOSE_XY, CLOSE_Z = 0.011, 0.007  # close when the gripper is this near to the grasp point
OPEN_XY, OPEN_Z = 0.011, 0.009  # open when the held source is this near to its place
HELD_XY = 0.022  # a source this near to the end effector can be held
FINGER_REACH = 0.014  # finger tips below the end effector, less a little for a secure grip
# Half width of each source between the fingers, and the slack of the opening that still counts as gripping.
FINGER_INNER_OFFSET = 0.010  # inner face of a finger pad relative to its joint position
HALF_WIDTH = {"carrot": 0.012, "eggplant": 0.0135, "green_cube": 0.015, "spoon": 0.009}
GRIP_SLACK, GRIP_SQUEEZE = 0.0035, 0.002  # fingers wider or narrower than the source that still grip it
# Horizontal error up to which the gripper goes all the way down, and the width of the slope beyond it.
FUNNEL_FREE, FUNNEL_WIDTH = 0.007, 0.020
# Height of the source's centre above the basket's origin when it is let go: the fingers stay above the rim.
BASKET_RELEASE_HEIGHT = 0.048


@dataclass(frozen=True)
class Situation:
    """What the expert looks at. Metres, base frame, quaternions xyzw, opening of one finger."""

    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray
    opening: float
    source_position: np.ndarray
    target_position: np.ndarray


def expert_action(
    env: SimEnvironment, task: str | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the expert's action (7,) in the environment's present state for ``task`` (default: its own).

    With ``rng`` one of the deltas' directions is perturbed by a few millimetres (for varied demonstrations).
    """
    chosen = env.task if task is None else find_task(task)
    action = plan(env.situation(chosen), chosen)
    if rng is not None:
        action[:3] += rng.normal(0.0, 0.004, 3)
    return action


def plan(now: Situation, task: Task) -> np.ndarray:
    """Return the action (7,): translation m, rotation vector rad, gripper 0 closed .. 1 open."""
    if is_held(now, task):
        goal, gripper = _carry(now, task)
    elif is_placed(now, task):
        goal, gripper = np.array([*now.end_effector_position[:2], RETREAT_HEIGHT]), 1.0
    else:
        goal, gripper = _reach(now)
    return np.concatenate([_limited(goal - now.end_effector_position, MAX_STEP), _upright(now), [gripper]])


def is_held(now: Situation, task: Task) -> bool:
    """Return whether the fingers are closed on the source: it is between them and they touch it."""
    offset = np.abs(now.source_position - now.end_effector_position)
    half_gap = now.opening - FINGER_INNER_OFFSET
    near = np.hypot(offset[0], offset[1]) < HELD_XY
    overlaps = offset[2] < FINGER_REACH + OBJECTS[task.source].rest_height
    excess = half_gap - HALF_WIDTH[task.source]
    return bool(near and overlaps and -GRIP_SQUEEZE < excess < GRIP_SLACK)


def is_placed(now: Situation, task: Task) -> bool:
    """Return whether the source lies on (or falls onto) the target."""
    offset = now.source_position - now.target_position
    height = support_height(task) + OBJECTS[task.source].rest_height
    return bool(np.hypot(offset[0], offset[1]) < placing_radius(task) and offset[2] < height + 0.03)


def support_height(task: Task) -> float:
    """Return how high above the target's origin the source's underside rests."""
    target = OBJECTS[task.target]
    return target.support_height - target.rest_height


def placing_radius(task: Task) -> float:
    """Return how far (m) the source's centre may be from the target's centre to count as on or in it."""
    return 0.016 if task.target == "yellow_cube" else 0.042


def release_height(task: Task) -> float:
    """Return the height of the source's centre above the target's origin at which the expert lets go."""
    height = support_height(task) + OBJECTS[task.source].rest_height + RELEASE_CLEARANCE
    return max(height, BASKET_RELEASE_HEIGHT) if task.target == "basket" else height


def grasp_point(source_position: np.ndarray) -> np.ndarray:
    """Return where the end effector shall be to grasp a source (3,), clear of the table."""
    return np.array(
        [source_position[0], source_position[1], max(source_position[2] + 0.002, MIN_GRASP_HEIGHT)]
    )


def _reach(now: Situation) -> tuple[np.ndarray, float]:
    """Go above the source, down along the funnel, and close when there."""
    grasp = grasp_point(now.source_position)
    error = grasp - now.end_effector_position
    distance = float(np.hypot(error[0], error[1]))
    closing = distance < CLOSE_XY and abs(error[2]) < CLOSE_Z
    grasp[2] += (TRAVEL_HEIGHT - MIN_GRASP_HEIGHT) * slope(distance)
    return grasp, 0.0 if closing else 1.0


def _carry(now: Situation, task: Task) -> tuple[np.ndarray, float]:
    """Lift the held source, carry it above the target, lower it and open when it is in place."""
    position = now.end_effector_position
    hold = position - now.source_position
    place = now.target_position + hold
    place[2] += release_height(task)
    error = place - position
    distance = float(np.hypot(error[0], error[1]))
    if distance < OPEN_XY and abs(error[2]) < OPEN_Z:
        return place, 1.0
    travel = max(TRAVEL_HEIGHT, place[2] + 0.02)
    goal = place.copy()
    goal[2] += (travel - place[2]) * slope(distance)
    # Sideways only as far as the source has been lifted: it must not be dragged through its neighbours.
    lifted = (
        1.0 if distance < FUNNEL_FREE + FUNNEL_WIDTH else np.clip((position[2] - 0.045) / 0.035, 0.0, 1.0)
    )
    goal[:2] = position[:2] + lifted * error[:2]
    return goal, 0.0


def slope(distance: float) -> float:
    """Return 0 above the goal (descend fully) .. 1 away from it (stay at travel height)."""
    return float(np.clip((distance - FUNNEL_FREE) / FUNNEL_WIDTH, 0.0, 1.0))


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)


def _upright(now: Situation) -> np.ndarray:
    """Return the rotation vector (3,) that turns the gripper back to straight down; zero within a degree."""
    turn = (Rotation.from_quat(DOWN) * Rotation.from_quat(now.end_effector_quaternion).inv()).as_rotvec()
    return np.zeros(3) if np.linalg.norm(turn) < 0.02 else _limited(turn, MAX_TURN)
