"""Named initial states: where every object starts, a pure function of ``<task>/<split>/<index>``."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from grape_sim.objects import OBJECTS
from grape_sim.tasks import TASKS, Task, find_task

SPLITS = ("train", "collect", "eval")
# Where object centres may lie on the table (m), and how far they may be turned (rad).
X_RANGE = (0.23, 0.39)
SOURCE_Y, TARGET_Y = 0.15, 0.13
MAX_RADIUS = 0.41  # top-down reach ends near 0.45 m
SOURCE_YAW, TARGET_YAW = math.radians(25.0), math.radians(10.0)
GRIPPER_HALF = (0.018, 0.043)  # the open fingers around a grasp point, along x and y
MARGIN = 0.006
BASKET_SHADE = 0.015
_ID = re.compile(r"(?P<task>[a-z_]+)/(?P<split>[a-z]+)/(?P<index>\d{4,9})")
_TRIES_PER_OBJECT, _RESTARTS = 60, 400


@dataclass(frozen=True)
class Placement:
    """An object's place on the table: centre (m) and yaw (rad) in the base frame."""

    name: str
    x: float
    y: float
    yaw: float

    @property
    def position(self) -> np.ndarray:
        """Position (3,) of the resting body in the base frame."""
        return np.array([self.x, self.y, OBJECTS[self.name].rest_height])

    @property
    def quaternion(self) -> np.ndarray:
        """Orientation xyzw (4,)."""
        return np.asarray(Rotation.from_euler("z", self.yaw).as_quat())


@dataclass(frozen=True)
class InitialState:
    """One named start: the objects of ``task`` and those of ``other_task``, so that the words matter."""

    initial_state_id: str
    task: Task
    other_task: Task
    placements: tuple[Placement, ...]


def make_id(task: str, split: str, index: int) -> str:
    """Return the name of an initial state, e.g. ``carrot_on_plate/train/0042``."""
    return f"{task}/{split}/{index:04d}"


def sample(initial_state_id: str) -> InitialState:
    """Return the initial state of that name; the same name always gives the same state.

    Raises:
        ValueError: the name is not ``<task>/<split>/<at least 4 digits>`` with a known task and split.
    """
    match = _ID.fullmatch(initial_state_id)
    if match is None or match["split"] not in SPLITS:
        raise ValueError(
            f"initial state {initial_state_id!r}: write <task>/<split>/<index>, "
            f"e.g. carrot_on_plate/train/0042, with split one of {', '.join(SPLITS)}"
        )
    task = find_task(match["task"])
    digest = hashlib.sha256(initial_state_id.encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    other = other_task(task, rng)
    return InitialState(initial_state_id, task, other, place_objects((task, other), rng))


def other_task(task: Task, rng: np.random.Generator) -> Task:
    """Choose the second task whose objects are on the table too."""
    others = [candidate for candidate in TASKS.values() if candidate != task]
    return others[int(rng.integers(len(others)))]


def place_objects(tasks: tuple[Task, ...], rng: np.random.Generator) -> tuple[Placement, ...]:
    """Place sources and targets so that nothing overlaps and the open gripper fits around each source."""
    sources = {task.source for task in tasks}
    names = [task.target for task in tasks] + [task.source for task in tasks]  # the large ones first
    uniform = _uniforms(rng)
    for _ in range(_RESTARTS):
        placements = _try_placing(names, sources, uniform)
        if placements is not None:
            return placements
    raise RuntimeError("no free layout found; the workspace is too small for these objects")


def _uniforms(rng: np.random.Generator) -> Callable[[float, float], float]:
    """Return a fast uniform(low, high): numbers are drawn in blocks, one call a block."""
    block: list[float] = []

    def uniform(low: float, high: float) -> float:
        if not block:
            block.extend(rng.random(64).tolist())
        return low + (high - low) * block.pop()

    return uniform


def _try_placing(
    names: list[str], sources: set[str], uniform: Callable[[float, float], float]
) -> tuple[Placement, ...] | None:
    placed: list[Placement] = []
    boxes: list[tuple[float, float]] = []
    for name in names:
        for _ in range(_TRIES_PER_OBJECT):
            placement = _draw(name, name in sources, uniform)
            box = occupied_half_extents(name, placement.yaw, name in sources)
            if _free(placement, box, placed, boxes):
                placed.append(placement)
                boxes.append(box)
                break
        else:
            return None
    return tuple(placed)


def _draw(name: str, is_source: bool, uniform: Callable[[float, float], float]) -> Placement:
    y_limit, yaw_limit = (SOURCE_Y, SOURCE_YAW) if is_source else (TARGET_Y, TARGET_YAW)
    while True:
        x, y = uniform(*X_RANGE), uniform(-y_limit, y_limit)
        if math.hypot(x, y) <= MAX_RADIUS:
            return Placement(name, x, y, uniform(-yaw_limit, yaw_limit))


def occupied_half_extents(name: str, yaw: float, is_source: bool) -> tuple[float, float]:
    """Return the half extents (x, y) an object needs; for a source with the open gripper around it."""
    half_x, half_y = OBJECTS[name].footprint
    cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
    box_x, box_y = half_x * cosine + half_y * sine, half_x * sine + half_y * cosine
    if name == "basket":
        box_x += BASKET_SHADE  # nothing may hide behind its wall
    if is_source:
        return max(box_x, GRIPPER_HALF[0]), max(box_y, GRIPPER_HALF[1])
    return box_x, box_y


def _free(
    new: Placement, box: tuple[float, float], placed: list[Placement], boxes: list[tuple[float, float]]
) -> bool:
    return all(
        abs(new.x - old.x) > box[0] + half[0] + MARGIN or abs(new.y - old.y) > box[1] + half[1] + MARGIN
        for old, half in zip(placed, boxes, strict=True)
    )
