"""The task list of a collection: a YAML file, or what the command line says, checked by its schema."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from grape_policy.collection.rollouts import Rollout, rollout_seed

Reset = Literal["simulator", "inverse", "scatter", "ask"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
_NEW_SCENES = ("simulator", "scatter", "ask")  # resets that can make a scene that was never there


class TaskListError(ValueError):
    """A task list is wrong; the message says file, place and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(_Strict):
    """One task: what to do, how to undo it, how many initial states, and how the scene is put back."""

    task: Annotated[str, Field(min_length=1, description="name; of a suite where the simulator resets")]
    forward: Annotated[str, Field(description="instruction; empty: the task's own wording")] = ""
    backward: Annotated[str, Field(description="instruction that undoes it, for the reset `inverse`")] = ""
    states: Annotated[int, Field(ge=1, le=10_000, description="initial states")] = 4
    reset: Annotated[
        tuple[Reset, ...],
        Field(min_length=1, description="ways to put the scene back, tried in this order"),
    ] = ("simulator",)

    @model_validator(mode="after")
    def _check(self) -> Task:
        if "inverse" in self.reset and not self.backward:
            raise ValueError("the reset inverse needs the instruction `backward`")
        if "simulator" not in self.reset and not self.forward:
            raise ValueError("without the reset simulator the instruction `forward` must be given")
        if not set(self.reset) & set(_NEW_SCENES):
            raise ValueError(f"no reset can make a first scene; add one of {', '.join(_NEW_SCENES)}")
        return self


class Limits(_Strict):
    """When a collection pauses or ends."""

    disk_gigabytes: Annotated[float, Field(gt=0, description="end when the folder is larger")] = 50.0
    free_gigabytes: Annotated[float, Field(ge=0, description="end when less is free on the disk")] = 2.0
    hours: Annotated[float, Field(gt=0, description="end after so much running time, over all starts")] = 24.0
    quiet_hours: Annotated[
        tuple[str, ...], Field(description='no motion in these local times, e.g. `"22:00-07:00"`')
    ] = ()
    ask_minutes: Annotated[float, Field(gt=0, description="wait so long for a person")] = 30.0
    ready_seconds: Annotated[float, Field(gt=0, description="wait so long for the nodes")] = 180.0

    @field_validator("quiet_hours")
    @classmethod
    def _check_windows(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        for window in windows:
            parse_window(window)
        return windows


class TaskList(_Strict):
    """What to collect. ``seed`` and the names fix every rollout; the same list again runs what is missing."""

    name: Annotated[Name, Field(description="folder of the journal and the status page")] = "collection"
    split: Annotated[Name, Field(description="split of the simulator's initial states")] = "collect"
    rollouts: Annotated[int, Field(ge=1, le=1_000, description="episodes per initial state")] = 3
    temperature: Annotated[float, Field(ge=0, le=10, description="of the sampling; 0: greedy")] = 0.7
    seed: Annotated[int, Field(ge=0, lt=2**31, description="of the sampling")] = 0
    max_steps: Annotated[int, Field(ge=1, le=10_000, description="longest episode")] = 50
    min_steps: Annotated[int, Field(ge=0, description="shorter episodes without success are odd")] = 3
    retries: Annotated[int, Field(ge=0, le=100, description="further attempts at a rollout")] = 3
    failures: Annotated[
        int, Field(ge=1, le=1_000, description="end after so many failed attempts one after another")
    ] = 20
    tolerance: Annotated[
        float, Field(ge=0, le=1, description="m a keypoint may be off its initial state; 0: no check")
    ] = 0.02
    judge: Annotated[
        Literal["recorded", "keypoints"], Field(description="who counts successes: the manifest or keypoints")
    ] = "recorded"
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, description="what to do, see below")]
    limits: Annotated[Limits, Field(description="when to pause or end, see below")] = Limits()

    @model_validator(mode="after")
    def _check(self) -> TaskList:
        names = [task.task for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("a task is listed twice; raise its number of states instead")
        for task in self.tasks:
            if self.rollouts > 1 and set(task.reset) == {"scatter"}:
                raise ValueError(
                    f"{task.task}: scatter cannot bring a scene back; set rollouts to 1 or add inverse or ask"
                )
            if set(task.reset) - {"simulator"} and self.tolerance == 0:
                raise ValueError(f"{task.task}: without a simulator the tolerance must not be 0")
        return self

    def plan(self) -> list[Rollout]:
        """Return all rollouts, those of one initial state after another."""
        return [
            Rollout(task.task, state, rollout_seed(self.seed, state, index))
            for task in self.tasks
            for state in self.states(task)
            for index in range(self.rollouts)
        ]

    def states(self, task: Task) -> list[str]:
        """Return the names of a task's initial states; those of a robot carry the list's name."""
        split = self.split if "simulator" in task.reset else self.name
        return [f"{task.task}/{split}/{index:04d}" for index in range(task.states)]

    def find(self, name: str) -> Task:
        """Return the task called ``name``; raises ``KeyError``."""
        return {task.task: task for task in self.tasks}[name]


def parse_window(text: str) -> tuple[time, time]:
    """Return start and end of a window such as ``22:00-07:00``; raises ``ValueError``."""
    try:
        start, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
    except ValueError:
        raise ValueError(f"quiet hours {text!r}: write them as 22:00-07:00") from None
    if start == end:
        raise ValueError(f"quiet hours {text!r} begin when they end")
    return start, end


def load_task_list(path: Path) -> TaskList:
    """Read and check a task list.

    Raises:
        TaskListError: The file is absent, no YAML, or not as the schema says.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskListError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise TaskListError(f"{path} is no task list: it must be a mapping with `tasks`")
    return _checked(document, str(path))


def simulated_task_list(tasks: Sequence[str], **fields: Any) -> TaskList:
    """Return the list that the command line's shortcuts stand for: ``states`` each, reset by the simulator.

    Raises:
        TaskListError: A value is not allowed.
    """
    states = fields.pop("states", 4)
    rows = [{"task": task, "states": states} for task in tasks]
    return _checked({"tasks": rows, **fields}, "the command line")


def _checked(document: dict[str, Any], where: str) -> TaskList:
    try:
        return TaskList.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TaskListError(f"{where}: {f'{place}: ' if place else ''}{first['msg']}") from error


def schema_tables() -> str:
    """Return the reference of all fields in Markdown."""
    parts = []
    for title, model in (("The list", TaskList), ("Each of `tasks`", Task), ("`limits`", Limits)):
        rows = [f"## {title}\n", "| field | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else "see below" if name == "limits" else None
            shown = default or f"`{_plain(field.default)}`"
            rows.append(f"| `{name}` | {shown} | {field.description} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _plain(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value) if value != "" else '""'
