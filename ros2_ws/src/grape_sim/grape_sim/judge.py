"""Judging from physical contact and pose: did the source end up on or in the target, let go and at rest?

Placed, all of it at one moment:
- the source presses on the target and on nothing else: no finger, no arm, no table, no other object;
- its centre is inside the target's area, at the height of resting on it (in the basket: below the rim);
- it moves slower than ``REST_SPEED``.
Success: placed for ``STABLE_SECONDS`` without a break, until now.
Grasped: at some time both fingers pressed on the source while nothing else touched it.
Collision: a step during which the robot or the held source touched an object of the other task, a link other
than the fingers touched table or target, or a finger pushed on one of them with more than ``HARD_FORCE``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np

from grape_sim.contacts import ARM, FINGERS, INDEX, ROBOT, ContactReader
from grape_sim.expert import support_height
from grape_sim.objects import OBJECTS
from grape_sim.scene import TABLE
from grape_sim.tasks import Task

REST_SPEED = 0.02  # m/s
STABLE_SECONDS = 0.1
HEIGHT_TOLERANCE = 0.010  # m
HARD_FORCE = 20.0  # N
# Half extents (x, y) in the target's frame within which the source's centre must lie; for the plate a radius.
AREA = {
    "plate": (0.050, 0.050),
    "basket": (0.054, 0.046),
    "yellow_cube": (0.0175, 0.0175),
    "towel": (0.056, 0.050),
}
BASKET_RIM = 0.030


@dataclass(frozen=True)
class Verdict:
    """What became of an episode so far; ``message`` says in words why it is (not) a success."""

    success: bool
    grasped: bool
    collisions: int
    message: str


@dataclass(frozen=True)
class Record:
    """What the judge remembers of an episode; part of the environment's state."""

    placed_seconds: float = 0.0
    grasped: bool = False
    collisions: int = 0


class Judge:
    """Follows one episode of one task."""

    def __init__(self, model: mujoco.MjModel, task: Task) -> None:
        self._reader = ContactReader(model)
        self._task = task
        self._source, self._target = INDEX[task.source], INDEX[task.target]
        others = set(OBJECTS) - {task.source, task.target}
        self._strangers = [INDEX[name] for name in others]
        self.record = Record()
        self._collided = False

    def observe(self, data: mujoco.MjData, seconds: float) -> None:
        """Take in one controller tick of ``seconds``."""
        forces = self._reader.forces(data)
        placed = self._problem(data, forces) is None
        self.record = replace(
            self.record,
            placed_seconds=self.record.placed_seconds + seconds if placed else 0.0,
            grasped=self.record.grasped or self._lifted(forces),
        )
        self._collided = self._collided or self._collides(forces)

    def end_step(self) -> None:
        """Count the step as a collision if anything collided during it."""
        if self._collided:
            self.record = replace(self.record, collisions=self.record.collisions + 1)
        self._collided = False

    @property
    def success(self) -> bool:
        """Whether the source has been placed, released and at rest for long enough."""
        return self.record.placed_seconds >= STABLE_SECONDS - 1e-9

    def verdict(self, data: mujoco.MjData) -> Verdict:
        """Return the verdict at this moment."""
        problem = self._problem(data, self._reader.forces(data))
        if self.success:
            problem = f"{self._task.source} rests on {self._task.target}"
        elif problem is None:
            problem = f"{self._task.source} has not rested on {self._task.target} for {STABLE_SECONDS} s yet"
        return Verdict(self.success, self.record.grasped, self.record.collisions, problem)

    def _problem(self, data: mujoco.MjData, forces: np.ndarray) -> str | None:
        """Return why the source does not count as placed at this moment, or None if it does."""
        source, target = self._task.source, self._task.target
        pressed = forces[self._source] > 0.0
        if pressed[ROBOT].any():
            return f"{source} still touches the gripper"
        if not pressed[self._target]:
            return f"{source} does not touch {target}"
        if pressed.sum() > 1:
            return f"{source} rests on something other than {target} too"
        if not self._inside(data):
            return f"{source} is not within the area and height of {target}"
        speed = float(np.linalg.norm(data.joint(source).qvel[:3]))
        return f"{source} still moves at {speed:.3f} m/s" if speed > REST_SPEED else None

    def _inside(self, data: mujoco.MjData) -> bool:
        """Whether the source's centre lies in the target's area (in its own frame) at resting height."""
        source, target = data.body(self._task.source), data.body(self._task.target)
        x, y, z = target.xmat.reshape(3, 3).T @ (source.xpos - target.xpos)
        half_x, half_y = AREA[self._task.target]
        if self._task.target == "basket":
            return bool(abs(x) < half_x and abs(y) < half_y and z < BASKET_RIM)
        if self._task.target == "plate" and np.hypot(x, y) > half_x:
            return False
        height = support_height(self._task) + OBJECTS[self._task.source].rest_height
        return bool(abs(x) < half_x and abs(y) < half_y and abs(z - height) < HEIGHT_TOLERANCE)

    def _lifted(self, forces: np.ndarray) -> bool:
        pressed = forces[self._source] > 0.0
        return bool(pressed[FINGERS].all() and pressed.sum() == len(FINGERS))

    def _collides(self, forces: np.ndarray) -> bool:
        movers = [*ROBOT, self._source] if self._lifted(forces) else ROBOT
        if (forces[np.ix_(movers, self._strangers)] > 0.0).any():
            return True
        table_and_target = [INDEX[TABLE], self._target]
        if (forces[INDEX[ARM], table_and_target] > 0.0).any():
            return True
        return bool((forces[np.ix_(FINGERS, table_and_target)] > HARD_FORCE).any())
