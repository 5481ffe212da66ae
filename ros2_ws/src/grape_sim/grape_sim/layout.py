"""Laying objects out on the table: nothing overlaps, and there is room for what the task needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from grape_sim.objects import ObjectShape
from grape_sim.suite_types import Layout, SuiteError, Task, Zone

_TRIES_PER_OBJECT, _RESTARTS = 60, 400
_DRAWS = 10_000  # of a place in a zone; where none is within reach, nothing of the zone is
PUSH_ROOM = 0.055  # m behind a pushed object for the gripper
GRIPPER_ROOM = 0.035  # m around the gripper where it comes down
PUSH_SIDE = 0.020  # m beside its way for the gripper
_REACH_X, _REACH_Y = (0.19, 0.44), 0.20  # where the end effector can work, m
_ON_THE_WAY = (0.45, 0.55)  # share of the way from source to target at which an obstacle stands
_BESIDE_THE_WAY = 0.01  # m

Uniform = Callable[[float, float], float]


@dataclass(frozen=True)
class Placement:
    """An object's place on the table: centre (m), yaw (rad) and height of its origin (m), base frame."""

    name: str
    x: float
    y: float
    yaw: float
    height: float

    @property
    def position(self) -> np.ndarray:
        """Position (3,) of the resting body in the base frame."""
        return np.array([self.x, self.y, self.height])

    @property
    def quaternion(self) -> np.ndarray:
        """Orientation xyzw (4,)."""
        return np.array([0.0, 0.0, math.sin(self.yaw / 2), math.cos(self.yaw / 2)])


def place_objects(
    tasks: Sequence[Task],
    rng: np.random.Generator,
    layout: Layout,
    extras: Sequence[ObjectShape] = (),
    obstacles: Sequence[ObjectShape] = (),
) -> tuple[Placement, ...]:
    """Place sources, targets and ``extras``; ``obstacles`` among them stand on the way of ``tasks[0]``.

    Raises:
        SuiteError: there is no room.
    """
    shapes = {task.target: task.target_shape for task in tasks}  # the large ones first
    shapes |= {task.source: task.source_shape for task in tasks}
    shapes |= {shape.name: shape for shape in extras if shape not in obstacles}
    draft = _Draft(layout, {task.source for task in tasks}, _uniforms(rng))
    for _ in range(_RESTARTS):
        placed = draft.try_placing(list(shapes.values())) and draft.suits(tasks[0])
        if placed and draft.try_obstacles(obstacles, tasks[0]):
            return tuple(draft.placed)
    what = f"no free layout found for {', '.join(shapes)} in {_RESTARTS} tries"
    raise SuiteError("layout", what, "Give the cell's layout larger ranges, or fewer objects")


def occupied_half_extents(
    shape: ObjectShape, yaw: float, grip_room: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return the half extents (x, y) an object needs; with ``grip_room`` also for the gripper around it."""
    half_x, half_y = shape.footprint
    cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
    box_x, box_y = half_x * cosine + half_y * sine, half_x * sine + half_y * cosine
    if shape.shade:
        box_x += shape.shade
    if grip_room is not None:
        return max(box_x, grip_room[0]), max(box_y, grip_room[1])
    return box_x, box_y


def knock_direction(y: float) -> tuple[float, float]:
    """Return the direction in which something at ``y`` (m) is knocked over: to its side of the table."""
    return (0.0, 1.0) if y >= 0.0 else (0.0, -1.0)


class _Draft:
    """A layout being composed."""

    def __init__(self, layout: Layout, sources: set[str], uniform: Uniform) -> None:
        self.placed: list[Placement] = []
        self._boxes: list[tuple[float, float, float, float]] = []  # centre and half extents
        self._plain_boxes: list[tuple[float, float]] = []  # without room for the gripper
        self._layout, self._sources, self._uniform = layout, sources, uniform

    def try_placing(self, shapes: list[ObjectShape]) -> bool:
        """Place all shapes one after the other; return whether all found room."""
        self.placed, self._boxes, self._plain_boxes = [], [], []
        for shape in shapes:
            is_source = shape.name in self._sources
            zone = self._layout.source if is_source else self._layout.target
            for _ in range(_TRIES_PER_OBJECT):
                if self._add(shape, *self._draw(zone), is_source):
                    break
            else:
                return False
        return True

    def suits(self, task: Task) -> bool:
        """Return whether the task can be done here: its objects are apart, and its way is free."""
        source, target = self._find(task.source), self._find(task.target)
        gap = math.hypot(source.x - target.x, source.y - target.y)
        if task.success.kind == "placed":
            return gap >= self._layout.apart
        if task.success.kind == "pushed":
            if gap < max(self._layout.apart, task.success.distance + 0.03):
                return False
            direction = ((target.x - source.x) / gap, (target.y - source.y) / gap)
            length = gap
        else:
            direction, length = knock_direction(source.y), task.source_shape.top + 0.03
        return self._way_is_free(source, direction, length, task)

    def try_obstacles(self, obstacles: Sequence[ObjectShape], task: Task) -> bool:
        """Put the obstacles on the straight way from source to target; return whether they fit."""
        source, target = self._find(task.source), self._find(task.target)
        for shape in obstacles:
            share = self._uniform(*_ON_THE_WAY)
            x = source.x + share * (target.x - source.x) + self._uniform(-_BESIDE_THE_WAY, _BESIDE_THE_WAY)
            y = source.y + share * (target.y - source.y)
            yaw = self._uniform(-self._layout.target.yaw, self._layout.target.yaw)
            if not self._add(shape, x, y, yaw, False):
                return False
        return True

    def _draw(self, zone: Zone) -> tuple[float, float, float]:
        for _ in range(_DRAWS):
            x, y = self._uniform(*zone.x), self._uniform(*zone.y)
            if math.hypot(x, y) <= self._layout.reach:
                return x, y, self._uniform(-zone.yaw, zone.yaw)
        what = (
            f"x {list(zone.x)}, y {list(zone.y)} is farther from the arm than reach, {self._layout.reach:g} m"
        )
        raise SuiteError("layout", what, "Move the zone nearer to the arm's base, which stands at 0, 0")

    def _add(self, shape: ObjectShape, x: float, y: float, yaw: float, is_source: bool) -> bool:
        """Place the object if there is room."""
        half_x, half_y = occupied_half_extents(shape, yaw, self._layout.grip_room if is_source else None)
        margin = self._layout.margin
        for old_x, old_y, old_half_x, old_half_y in self._boxes:
            if (
                abs(x - old_x) <= half_x + old_half_x + margin
                and abs(y - old_y) <= half_y + old_half_y + margin
            ):
                return False
        self.placed.append(Placement(shape.name, x, y, yaw, shape.rest_height))
        self._boxes.append((x, y, half_x, half_y))
        self._plain_boxes.append(occupied_half_extents(shape, yaw))
        return True

    def _find(self, name: str) -> Placement:
        return next(placement for placement in self.placed if placement.name == name)

    def _way_is_free(
        self, source: Placement, direction: tuple[float, float], length: float, task: Task
    ) -> bool:
        """Return whether gripper and source fit along the way, from behind the source to its end."""
        radius = max(task.source_shape.footprint)
        back = radius + PUSH_ROOM
        start = np.array([source.x - back * direction[0], source.y - back * direction[1]])
        if not (_REACH_X[0] <= start[0] <= _REACH_X[1] and abs(start[1]) <= _REACH_Y):
            return False
        ahead_x, ahead_y = abs(direction[0]), abs(direction[1])
        for other, (half_x, half_y) in zip(self.placed, self._plain_boxes, strict=True):
            if other.name in (task.source, task.target):
                continue
            x, y = other.x - start[0], other.y - start[1]
            along, beside = x * direction[0] + y * direction[1], abs(y * direction[0] - x * direction[1])
            half_along, half_beside = (
                half_x * ahead_x + half_y * ahead_y,
                half_x * ahead_y + half_y * ahead_x,
            )
            reaches = -half_along < along + GRIPPER_ROOM and along < back + length + half_along
            if reaches and beside < radius + PUSH_SIDE + half_beside:
                return False
        return True


def _uniforms(rng: np.random.Generator) -> Uniform:
    """Return a fast uniform(low, high): numbers are drawn in blocks, one call a block."""
    block: list[float] = []

    def uniform(low: float, high: float) -> float:
        if not block:
            block.extend(rng.random(64).tolist())
        return low + (high - low) * block.pop()

    return uniform
