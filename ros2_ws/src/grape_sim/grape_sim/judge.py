"""Judging from physical contact and pose, never from commands.

Placed, all of it at one moment:
- the source presses on the target and on nothing else: no finger, no arm, no table, no other object;
- its centre is inside the target's area, at the height of resting on it (in a container: below the rim);
- it moves slower than ``REST_SPEED``.
Pushed: the source rests on the table, untouched by the robot, near enough to the target, and was never
lifted. Knocked over: the source rests untouched by the robot, tilted far enough. Success: so for
``STABLE_SECONDS`` without a break, until now. Grasped: at some time both fingers pressed on the source while
nothing else touched it. Collision: a step during which the robot or the held source touched a stranger (an
object of no concern to the task), a link other than the fingers touched table or target, or a finger pushed
on one of them with more than the suite's hard force. With ``anything_but_target`` every contact of the robot
but with source and target counts, and every contact of the held source but with the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from grape_policy.arm.model import END_EFFECTOR_SITE

from grape_sim.contacts import ARM, FINGERS, INDEX, ROBOT, ContactReader, Forces
from grape_sim.expert import support_height
from grape_sim.scene import TABLE
from grape_sim.suite_types import Collision, Task

REST_SPEED = 0.02  # m/s
STABLE_SECONDS = 0.1
HEIGHT_TOLERANCE = 0.010  # m
REACHED = 0.05  # m between end effector and source that count as reached
MOVED = 0.015  # m that count as moved
TILTED = math.radians(15.0)
CARRIED_HEIGHT = 0.015  # m above its resting place from which on a held source is carried


@dataclass(frozen=True)
class Verdict:
    """What became of an episode so far; ``message`` says in words why it is (not) a success.

    stage: the furthest of the task's stages that was reached.
    """

    success: bool
    grasped: bool
    collisions: int
    message: str
    stage: str = "start"


@dataclass(frozen=True)
class Record:
    """What the judge remembers of an episode; part of the environment's state."""

    placed_seconds: float = 0.0
    grasped: bool = False
    collisions: int = 0
    stage: int = 0
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the source


class Judge:
    """Follows one episode of one task in ``data``, whose contacts ``reader`` reads."""

    def __init__(self, data: mujoco.MjData, reader: ContactReader, task: Task, collision: Collision) -> None:
        self._data, self._reader, self._task, self._collision = data, reader, task, collision
        self._source, self._target = reader.index[task.source], reader.index[task.target]
        concerned = {*INDEX, task.source, task.target}
        self._strangers = {row for name, row in reader.index.items() if name not in concerned}
        self._table_and_target = {INDEX[TABLE], self._target} - {self._source}
        self._watched = reader.watch([*ROBOT, self._source])
        # Views of MuJoCo's memory: asking for them every 20 ms of simulated time costs more than the judging.
        source, target = data.body(task.source), data.body(task.target)
        self._source_at, self._source_turn = source.xpos, source.xmat
        self._target_at, self._target_axes = target.xpos, target.xmat.reshape(3, 3).T
        self._source_velocity = data.joint(task.source).qvel[:3]
        self._end_effector = data.site(END_EFFECTOR_SITE).xpos
        self._unmet = {"placed": self._unplaced, "pushed": self._unpushed, "knocked_over": self._upright}[
            task.success.kind
        ]
        self._half_height = task.source_shape.top / 2
        self.record = Record()
        self._collided = False

    def begin(self) -> None:
        """Start counting here: the scene has settled."""
        x, y, z = self._source_at.tolist()
        self.record = Record(start=(x, y, z))

    def observe(self, seconds: float) -> None:
        """Take in one controller tick of ``seconds``."""
        forces = self._reader.forces(self._data, self._watched)
        placed = self._problem(forces) is None
        lifted = self._lifted(forces)
        placed_seconds = self.record.placed_seconds + seconds if placed else 0.0
        grasped = self.record.grasped or lifted
        if (placed_seconds, grasped) != (self.record.placed_seconds, self.record.grasped):
            self.record = replace(self.record, placed_seconds=placed_seconds, grasped=grasped)
        self._collided = self._collided or self._collides(forces, lifted)

    def end_step(self) -> None:
        """Count the step as a collision if anything collided during it; note the stage."""
        stage = max(self.record.stage, self._stage())
        if self._collided or stage != self.record.stage:
            collisions = self.record.collisions + self._collided
            self.record = replace(self.record, collisions=collisions, stage=stage)
        self._collided = False

    @property
    def success(self) -> bool:
        """Whether the task has been done, the source let go and at rest, for long enough."""
        return self.record.placed_seconds >= STABLE_SECONDS - 1e-9

    def verdict(self) -> Verdict:
        """Return the verdict at this moment."""
        problem = self._problem(self._reader.forces(self._data, self._watched))
        if self.success:
            problem = self._done()
        elif problem is None:
            problem = self._not_yet()
        stages = self._task.stages
        stage = len(stages) - 1 if self.success else min(self.record.stage, len(stages) - 2)
        return Verdict(self.success, self.record.grasped, self.record.collisions, problem, stages[stage])

    def _done(self) -> str:
        source, target = self._task.source, self._task.target
        return {
            "placed": f"{source} rests on {target}",
            "pushed": f"{source} stands beside {target}",
            "knocked_over": f"{source} lies on its side",
        }[self._task.success.kind]

    def _not_yet(self) -> str:
        if self._task.success.kind == "placed":
            source, target = self._task.source, self._task.target
            return f"{source} has not rested on {target} for {STABLE_SECONDS} s yet"
        return f"{self._done()}, but not for {STABLE_SECONDS} s yet"

    def _problem(self, forces: Forces) -> str | None:
        """Return why the task does not count as done at this moment, or None if it does."""
        source = self._task.source
        pressed = forces.get(self._source, {}).keys()
        if not pressed.isdisjoint(ROBOT):
            return f"{source} still touches the gripper"
        problem = self._unmet(pressed)
        if problem is not None:
            return problem
        speed = math.sqrt(self._source_velocity.dot(self._source_velocity))
        return f"{source} still moves at {speed:.3f} m/s" if speed > REST_SPEED else None

    def _unplaced(self, pressed: Set[int]) -> str | None:
        source, target = self._task.source, self._task.target
        if self._target not in pressed:
            return f"{source} does not touch {target}"
        if len(pressed) > 1:
            return f"{source} rests on something other than {target} too"
        if not self._inside():
            return f"{source} is not within the area and height of {target}"
        return None

    def _unpushed(self, pressed: Set[int]) -> str | None:
        source, target = self._task.source, self._task.target
        if self.record.grasped:
            return f"{source} was lifted instead of pushed"
        if INDEX[TABLE] not in pressed:
            return f"{source} does not stand on the table"
        offset = self._source_at - self._target_at
        distance = float(np.hypot(offset[0], offset[1]))
        if distance > self._task.success.distance:
            return f"{source} is {distance:.3f} m from {target}, not within {self._task.success.distance:g} m"
        return None

    def _upright(self, pressed: Set[int]) -> str | None:
        tilt = self._tilt()
        if tilt < self._task.success.tilt:
            return f"{self._task.source} is tilted by {math.degrees(tilt):.0f} degrees only"
        return None if pressed else f"{self._task.source} does not lie on anything"

    def _tilt(self) -> float:
        """Return the angle (rad) between the source's z axis and the vertical."""
        return math.acos(float(np.clip(self._source_turn[8], -1.0, 1.0)))

    def _inside(self) -> bool:
        """Whether the source's centre lies in the target's area (in its own frame) at resting height."""
        surface = self._task.target_shape.surface
        assert surface is not None  # the suite's parser refuses such tasks
        x, y, z = (self._target_axes @ (self._source_at - self._target_at)).tolist()
        half_x, half_y = surface.half
        if surface.rim is not None:
            return bool(abs(x) < half_x and abs(y) < half_y and z < surface.rim)
        if surface.round and np.hypot(x, y) > half_x:
            return False
        height = support_height(self._task) + self._task.source_shape.rest_height
        return bool(abs(x) < half_x and abs(y) < half_y and abs(z - height) < HEIGHT_TOLERANCE)

    def _stage(self) -> int:
        """Return the number of the stage reached at this moment (the last one is left to ``success``)."""
        source = self._source_at
        if self._task.success.kind == "placed":
            if self.record.grasped:
                offset = source - self._target_at
                return 3 if np.hypot(offset[0], offset[1]) < self._task.target_shape.radius else 2
        elif self._task.success.kind == "pushed":
            if np.hypot(*(source - self.record.start)[:2]) > MOVED:
                return 2
        elif self._tilt() > TILTED:
            return 2
        way = self._end_effector - source
        return int(math.sqrt(way.dot(way)) - self._half_height < REACHED)

    def _lifted(self, forces: Forces) -> bool:
        return forces.get(self._source, {}).keys() == set(FINGERS)

    def _collides(self, forces: Forces, lifted: bool) -> bool:
        if forces.keys().isdisjoint(ROBOT):  # a lifted source presses on the fingers
            return False
        if self._collision.kind == "anything_but_target":
            return self._touches_anything(forces)
        movers = [*ROBOT, self._source] if lifted else ROBOT
        return (
            _highest(forces, movers, self._strangers) > 0.0
            or _highest(forces, [INDEX[ARM]], self._table_and_target) > 0.0
            or _highest(forces, FINGERS, self._table_and_target) > self._collision.hard_force
        )

    def _touches_anything(self, forces: Forces) -> bool:
        """Whether the robot, or the source it carries, touches anything but source and target."""
        outside = {INDEX[TABLE], *self._strangers}
        if _highest(forces, ROBOT, outside) > 0.0:
            return True
        if not forces.get(self._source, {}).keys() >= set(FINGERS):
            return False
        height = float(self._source_at[2] - self.record.start[2])
        return height > CARRIED_HEIGHT and _highest(forces, [self._source], outside) > 0.0


def _highest(forces: Forces, things: Sequence[int], others: Set[int]) -> float:
    """Return the highest force (N) between any of ``things`` and any of ``others``."""
    highest = 0.0
    for thing in things:
        for other, force in forces.get(thing, {}).items():
            if force > highest and other in others:
                highest = force
    return highest
