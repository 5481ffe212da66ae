"""Puts the scene into a rollout's initial state, by the task's ways in their order, and checks the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from grape_policy.collection.robot import Robot, RobotError
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.scene import References, Scene, locate, worst_distance
from grape_policy.collection.task_list import Task, TaskList

TRIES = 2  # of each way to put the scene back
AGREEMENT = 0.5  # of the tolerance: two looks at a new state must agree so well
INVERSE = "inverse"  # how the episodes that put a scene back name their task: <task>_inverse


@dataclass(frozen=True)
class Prepared:
    """Whether the scene may be acted on, whether it is in the state already, and if not, why.

    Without the check (``in_place`` false) the reset is left to the episode itself.
    """

    ready: bool
    in_place: bool = True
    message: str = ""


class Resetter:
    """Prepares scenes; owns the references of the initial states."""

    def __init__(
        self, robot: Robot, wanted: TaskList, references: References, say: Callable[[str], None]
    ) -> None:
        self._robot, self._wanted, self._references, self._say = robot, wanted, references, say

    def prepare(self, rollout: Rollout) -> Prepared:
        """Try the task's ways in turn until the check passes."""
        task, message = self._wanted.find(rollout.task), ""
        if self._wanted.tolerance == 0:
            return Prepared(True, in_place=False)
        for way in self._applicable(task, rollout):
            for _ in range(TRIES):
                self._say(f"resetting: {way}")
                message = self._try(way, task, rollout)
                if not message:
                    return Prepared(True)
                self._say(f"{way}: {message}")
        return Prepared(False, message=message or "no way to put the scene back applies")

    def _applicable(self, task: Task, rollout: Rollout) -> list[str]:
        """Return the ways that can lead there: a known state needs no new scene, a new one no way back."""
        known = self._references.find(rollout.initial_state_id) is not None
        return [way for way in task.reset if way != ("scatter" if known else "inverse")]

    def _try(self, way: str, task: Task, rollout: Rollout) -> str:
        """Reset in one way and check; return what is wrong, empty when nothing is."""
        try:
            self._reset(way, task, rollout)
            return self._check(way, rollout)
        except (RobotError, ValueError) as error:
            return str(error)

    def _reset(self, way: str, task: Task, rollout: Rollout) -> None:
        robot, minutes = self._robot, self._wanted.limits.ask_minutes
        if way == "simulator":
            robot.reset(rollout)
        elif way == "scatter":
            robot.scatter(rollout.seed)
        elif way == "inverse":
            back = dataclasses.replace(rollout, task=f"{task.task}_{INVERSE}")
            robot.run(back, task.backward, self._wanted.max_steps, self._wanted.temperature, True)
            robot.home()
        else:
            robot.home()
            if not robot.ask(self._request(task, rollout), minutes * 60):
                raise RobotError(f"nobody confirmed within {minutes:g} minutes")

    def _request(self, task: Task, rollout: Rollout) -> str:
        reference = self._references.find(rollout.initial_state_id)
        if reference is None:
            return f"Lay out a new scene for {task.forward or task.task!r}; its objects must be visible."
        places = ", ".join(
            f"{name} at x {place[0]:.2f}, y {place[1]:.2f} m" for name, place in reference.items()
        )
        return f"Put the scene back into {rollout.initial_state_id}: {places}."

    def _check(self, way: str, rollout: Rollout) -> str:
        """Compare the scene with the state's reference; make the reference of a state not seen before."""
        scene = locate(rollout.task, self._robot.look())
        if scene.unseen:
            return f"not seen: {', '.join(scene.unseen)}"
        if scene.done:
            return "the task is done already"
        reference = self._references.find(rollout.initial_state_id)
        if reference is None:
            return self._new_reference(way, rollout, scene)
        name, distance = worst_distance(scene, reference)
        if distance > self._wanted.tolerance:
            return f"{name} is {distance * 1000:.0f} mm from its place in {rollout.initial_state_id}"
        return ""

    def _new_reference(self, way: str, rollout: Rollout, scene: Scene) -> str:
        """Two resets by the simulator must agree; a scene laid out otherwise must lie still."""
        if way == "simulator":
            self._robot.reset(rollout)
        again = locate(rollout.task, self._robot.look())
        name, distance = worst_distance(again, scene.positions)
        if distance > AGREEMENT * self._wanted.tolerance:
            return f"two looks at {rollout.initial_state_id} differ: {name} by {distance * 1000:.0f} mm"
        self._references.save(rollout.initial_state_id, scene)
        return ""
