"""Scripted expert: a stateless, reactive rule from the physical situation to one action.

It is a pure function of where the gripper, the source and the target are, so that any state can be labelled,
also one off its own path. All moves are proportional with a speed limit: above the source, down along
a funnel, close, lift, above the target, down along a funnel, open, retreat. What stands in the way is crossed
from above. Pushing and knocking over are in ``expert_push``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from grape_sim.objects import Grip, Surface
from grape_sim.suite_types import Task

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
_GRIP_HEIGHT = 0.002  # of a plain grip above the source's centre
FINGER_REACH = 0.014  # finger tips below the end effector, less a little for a secure grip
# Slack of the opening that still counts as gripping.
FINGER_INNER_OFFSET = 0.010  # inner face of a finger pad relative to its joint position
GRIP_SLACK, GRIP_SQUEEZE = 0.0035, 0.002  # fingers wider or narrower than the source that still grip it
# Horizontal error up to which the gripper goes all the way down, and the width of the slope beyond it.
FUNNEL_FREE, FUNNEL_WIDTH = 0.007, 0.020
# Crossing obstacles: what the open gripper needs beside and below it (m).
BESIDE_OBSTACLE, ABOVE_OBSTACLE, FINGER_TIPS = 0.055, 0.020, 0.016


@dataclass(frozen=True)
class Style:
    """How the expert moves: the same strategy, another path. The default is the plain expert.

    speed: longest step, m an action. travel_height: of the end effector when it moves sideways, m.
    grasp_shift: of the grasp along x, m. bow: how far its ways bend aside, as a share of the distance left.
    """

    speed: float = MAX_STEP
    travel_height: float = TRAVEL_HEIGHT
    grasp_shift: float = 0.0
    bow: float = 0.0


PLAIN = Style()


def draw_style(rng: np.random.Generator, variety: float = 1.0) -> Style:
    """Draw a way of moving; ``variety`` 0 gives the plain expert, 1 the full range."""
    slower, higher, shift, bow = rng.random(), rng.uniform(-0.3, 1.0), rng.uniform(-1, 1), rng.uniform(-1, 1)
    return Style(
        speed=MAX_STEP * (1.0 - 0.45 * variety * slower),
        travel_height=TRAVEL_HEIGHT + 0.04 * variety * higher,
        grasp_shift=0.008 * variety * shift,
        bow=0.5 * variety * bow,
    )


@dataclass(frozen=True)
class Obstacle:
    """Something not to be touched: centre (m, base frame), radius and height (m)."""

    x: float
    y: float
    radius: float
    top: float


@dataclass(frozen=True)
class Situation:
    """What the expert looks at. Metres, base frame, quaternions xyzw, opening of one finger."""

    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray
    opening: float
    source_position: np.ndarray
    target_position: np.ndarray
    source_up: float = 1.0  # cosine of the source's tilt
    obstacles: tuple[Obstacle, ...] = ()


def expert_action(
    env: SimEnvironment,
    task: str | None = None,
    rng: np.random.Generator | None = None,
    style: Style = PLAIN,
) -> np.ndarray:
    """Return the expert's action (7,) in the environment's present state for ``task`` (default: its own).

    With ``rng`` one of the deltas' directions is perturbed by a few millimetres (for varied demonstrations).
    """
    chosen = env.task if task is None else env.suite.find_task(task)
    action = plan(env.situation(chosen), chosen, style)
    if rng is not None:
        action[:3] += rng.normal(0.0, 0.004, 3)
    return action


def plan(now: Situation, task: Task, style: Style = PLAIN) -> np.ndarray:
    """Return the action (7,): translation m, rotation vector rad, gripper 0 closed .. 1 open."""
    if task.success.kind != "placed":
        from grape_sim.expert_push import plan_push

        return plan_push(now, task, style)
    if is_held(now, task):
        goal, gripper = _carry(now, task, style)
    elif is_placed(now, task):
        goal, gripper = np.array([*now.end_effector_position[:2], RETREAT_HEIGHT]), 1.0
    else:
        goal, gripper = _reach(now, task, style)
    return to_action(now, goal, gripper, style)


def to_action(
    now: Situation, goal: np.ndarray, gripper: float, style: Style, orientation: np.ndarray = DOWN
) -> np.ndarray:
    """Return the action (7,) of one limited step towards ``goal`` (3,) and ``orientation`` xyzw (4,)."""
    move = _limited(goal - now.end_effector_position, style.speed)
    return np.concatenate([move, _turn_to(orientation, now), [gripper]])


def is_held(now: Situation, task: Task) -> bool:
    """Return whether the fingers are closed on the source: it is between them and they touch it."""
    grip = task.source_shape.grip
    if grip is None:
        return False
    offset = np.abs(now.source_position - now.end_effector_position)
    half_gap = now.opening - FINGER_INNER_OFFSET
    near = np.hypot(offset[0], offset[1]) < HELD_XY
    overlaps = offset[2] < FINGER_REACH + task.source_shape.rest_height + max(0.0, grip.height - _GRIP_HEIGHT)
    excess = half_gap - grip.half_width
    return bool(near and overlaps and -GRIP_SQUEEZE < excess < GRIP_SLACK)


def is_placed(now: Situation, task: Task) -> bool:
    """Return whether the source lies on (or falls onto) the target."""
    offset = now.source_position - now.target_position
    height = support_height(task) + task.source_shape.rest_height
    return bool(np.hypot(offset[0], offset[1]) < placing_radius(task) and offset[2] < height + 0.03)


def support_height(task: Task) -> float:
    """Return how high above the target's origin the source's underside rests."""
    return surface_of(task).height - task.target_shape.rest_height


def placing_radius(task: Task) -> float:
    """Return how far (m) the source's centre may be from the target's centre to count as on or in it."""
    return surface_of(task).aim


def release_height(task: Task) -> float:
    """Return the height of the source's centre above the target's origin at which the expert lets go."""
    height = support_height(task) + task.source_shape.rest_height + RELEASE_CLEARANCE
    return max(height, surface_of(task).release)


def grip_of(task: Task) -> Grip:
    """Return how the task's source is gripped; ``ValueError`` if it cannot be."""
    if task.source_shape.grip is None:
        raise ValueError(f"task {task.name}: {task.source} has no grip; give the object one in its suite")
    return task.source_shape.grip


def surface_of(task: Task) -> Surface:
    """Return where the task's source comes to rest; ``ValueError`` if nothing can be put there."""
    if task.target_shape.surface is None:
        raise ValueError(f"task {task.name}: {task.target} has no surface; give the object one in its suite")
    return task.target_shape.surface


def grasp_point(source_position: np.ndarray, grip: Grip) -> np.ndarray:
    """Return where the end effector shall be to grasp a source (3,), clear of the table."""
    x, y, z = source_position
    return np.array([x, y, max(z + grip.height, MIN_GRASP_HEIGHT)])


def _reach(now: Situation, task: Task, style: Style) -> tuple[np.ndarray, float]:
    """Go above the source, down along the funnel, and close when there."""
    grasp = grasp_point(now.source_position, grip_of(task))
    grasp[0] += style.grasp_shift
    error = grasp - now.end_effector_position
    distance = float(np.hypot(error[0], error[1]))
    closing = distance < CLOSE_XY and abs(error[2]) < CLOSE_Z
    clear = clear_height(now, grasp, FINGER_TIPS)
    goal = grasp.copy()
    goal[2] += (max(style.travel_height, clear) - MIN_GRASP_HEIGHT) * slope(distance)
    goal[:2] += _bow(error, distance, style)
    if clear > now.end_effector_position[2] + ABOVE_OBSTACLE / 2:
        goal[:2] = now.end_effector_position[:2]  # rise first
    return goal, 0.0 if closing else 1.0


def _carry(now: Situation, task: Task, style: Style) -> tuple[np.ndarray, float]:
    """Lift the held source, carry it above the target, lower it and open when it is in place."""
    position = now.end_effector_position
    hold = position - now.source_position
    place = now.target_position + hold
    place[2] += release_height(task)
    error = place - position
    distance = float(np.hypot(error[0], error[1]))
    if distance < OPEN_XY and abs(error[2]) < OPEN_Z:
        return place, 1.0
    clear = clear_height(now, place, max(FINGER_TIPS, float(hold[2]) + task.source_shape.rest_height))
    travel = max(style.travel_height, place[2] + 0.02, clear)
    goal = place.copy()
    goal[2] += (travel - place[2]) * slope(distance)
    # Sideways only as far as the source has been lifted: it must not be dragged through its neighbours.
    lifted = (
        1.0 if distance < FUNNEL_FREE + FUNNEL_WIDTH else np.clip((position[2] - 0.045) / 0.035, 0.0, 1.0)
    )
    if clear > position[2] + ABOVE_OBSTACLE / 2:
        lifted = 0.0
    goal[:2] = position[:2] + lifted * (error[:2] + _bow(error, distance, style))
    return goal, 0.0


def clear_height(now: Situation, goal: np.ndarray, below: float) -> float:
    """Return the height (m) from which the straight way to ``goal`` clears all obstacles; 0 without any.

    below: how far (m) the gripper, with what it holds, reaches below the end effector.
    """
    start, height = now.end_effector_position[:2], 0.0
    way = goal[:2] - start
    for obstacle in now.obstacles:
        offset = np.array([obstacle.x, obstacle.y]) - start
        share = float(np.clip(offset @ way / max(float(way @ way), 1e-9), 0.0, 1.0))
        if np.hypot(*(offset - share * way)) < obstacle.radius + BESIDE_OBSTACLE:
            height = max(height, obstacle.top + below + ABOVE_OBSTACLE)
    return height


def _bow(error: np.ndarray, distance: float, style: Style) -> np.ndarray:
    """Return the bend (2,) m of the way: to its left, fading out above the goal."""
    if style.bow == 0.0:
        return np.zeros(2)
    share = style.bow * slope(distance) * min(1.0, distance / 0.1)
    return share * np.array([-error[1], error[0]])


def slope(distance: float) -> float:
    """Return 0 above the goal (descend fully) .. 1 away from it (stay at travel height)."""
    return float(np.clip((distance - FUNNEL_FREE) / FUNNEL_WIDTH, 0.0, 1.0))


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)


def _turn_to(orientation: np.ndarray, now: Situation) -> np.ndarray:
    """Return the rotation vector (3,) that turns the gripper to ``orientation``; zero within a degree."""
    turn = (
        Rotation.from_quat(orientation) * Rotation.from_quat(now.end_effector_quaternion).inv()
    ).as_rotvec()
    return np.zeros(3) if np.linalg.norm(turn) < 0.02 else _limited(turn, MAX_TURN)
