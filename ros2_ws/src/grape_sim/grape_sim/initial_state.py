"""Named initial states: a pure function of the name ``<cell>/<split>/<index>`` and of the suite."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape_sim.layout import Placement, place_objects
from grape_sim.objects import ObjectShape
from grape_sim.suite import SHIPPED, load_suite
from grape_sim.suite_types import Cell, Suite, SuiteError, Task, Visual

SPLITS = load_suite("in_domain").splits
_ID = re.compile(
    r"(?:(?P<suite>[a-z][a-z0-9_]*)\.)?(?P<cell>[a-z][a-z0-9_]*)/(?P<split>[a-z]+)/(?P<index>\d{4,9})"
)


@dataclass(frozen=True)
class StateId:
    """The parts of an initial state's name."""

    cell: str
    split: str
    index: int


@dataclass(frozen=True)
class Look:
    """What one initial state looks like; None or zero leaves the scene as it is.

    table: texture. ambient: brightness. diffuse: the directional light's colour. light_turn and camera_turn:
    rotation vectors (rad, base frame). camera_shift: m, base frame.
    """

    table: str | None
    ambient: float | None
    diffuse: tuple[float, float, float] | None
    light_turn: tuple[float, float, float]
    camera_shift: tuple[float, float, float]
    camera_turn: tuple[float, float, float]


@dataclass(frozen=True)
class InitialState:
    """One named start. The objects of ``other_task`` stand there too, so that the words matter.

    instruction: what the robot is told. other_instruction: words of another task, where possible about
    objects that are there. obstacles: names of the objects that stand in the way.
    """

    initial_state_id: str
    suite: str
    cell: str
    split: str
    index: int
    task: Task
    other_task: Task | None
    instruction: str
    other_instruction: str
    placements: tuple[Placement, ...]
    obstacles: tuple[str, ...] = ()
    look: Look | None = None

    @property
    def shown_tasks(self) -> tuple[Task, ...]:
        """The tasks whose objects stand on the table, the asked one first."""
        return (self.task,) if self.other_task is None else (self.task, self.other_task)


def make_id(task: str, split: str, index: int) -> str:
    """Return the name of an in-domain initial state, e.g. ``carrot_on_plate/train/0042``."""
    return f"{task}/{split}/{index:04d}"


def find_suite(initial_state_id: str) -> Suite:
    """Return the shipped suite that the name begins with, ``in_domain`` if with none.

    Raises:
        SuiteError: no shipped suite is called so.
    """
    name, dot, _ = initial_state_id.partition(".")
    if not dot:
        return load_suite("in_domain")
    if name not in SHIPPED or name == "in_domain":
        remedy = f"Give the suite's file, or a name of: {', '.join(SHIPPED)}"
        raise SuiteError(f"initial state {initial_state_id!r}", "belongs to no shipped suite", remedy)
    return load_suite(name)


def parse_id(initial_state_id: str, suite: Suite) -> StateId:
    """Return the parts of a name of ``suite``; raises ``SuiteError`` if it is not one."""
    match = _ID.fullmatch(initial_state_id)
    prefix = None if suite.plain_ids else suite.name
    where = f"initial state {initial_state_id!r}"
    if match is None or match["split"] not in suite.splits:
        example = suite.state_id(next(iter(suite.cells)), suite.splits[0], 42)
        shape = "<task>/<split>/<index>" if prefix is None else "<suite>.<cell>/<split>/<index>"
        remedy = f"Write {shape}, e.g. {example}, with split one of {', '.join(suite.splits)}"
        raise SuiteError(where, "is not a name", remedy)
    if match["suite"] != prefix:
        raise SuiteError(where, f"is not of suite {suite.name}", "Use the suite that the name begins with")
    if match["cell"] not in suite.cells:
        raise SuiteError(where, f"unknown task or cell {match['cell']!r}", f"Known: {', '.join(suite.cells)}")
    return StateId(match["cell"], match["split"], int(match["index"]))


def sample(initial_state_id: str, suite: Suite | None = None) -> InitialState:
    """Return the initial state of that name; the same name always gives the same state.

    Raises:
        SuiteError: it is not a name of ``suite`` (default: of the shipped suite that it begins with).
    """
    suite = find_suite(initial_state_id) if suite is None else suite
    name = parse_id(initial_state_id, suite)
    cell = suite.cells[name.cell]
    task = cell.tasks[name.index % len(cell.tasks)]
    rng = _generator(initial_state_id)
    other = other_task(task, cell.other_tasks, rng)
    extras, obstacles = _extras(cell, rng)
    tasks = (task,) if other is None else (task, other)
    try:
        placements = place_objects(tasks, rng, cell.layout, (*extras, *obstacles), obstacles)
    except SuiteError as error:
        where = f"{suite.source}: cells.{name.cell}.layout ({initial_state_id})"
        raise SuiteError(where, error.what, error.remedy) from error
    words = _generator(f"{initial_state_id}#words")
    return InitialState(
        initial_state_id=initial_state_id,
        suite=suite.name,
        cell=name.cell,
        split=name.split,
        index=name.index,
        task=task,
        other_task=other,
        instruction=_wording(cell, task, words),
        other_instruction=_other_wording(suite, cell, task, other, words),
        placements=placements,
        obstacles=tuple(shape.name for shape in obstacles),
        look=None if cell.visual is None else _look(cell.visual, _generator(f"{initial_state_id}#look")),
    )


def other_task(task: Task, candidates: Sequence[Task], rng: np.random.Generator) -> Task | None:
    """Choose the second task whose objects are on the table too."""
    others = [candidate for candidate in candidates if candidate.name != task.name]
    return others[int(rng.integers(len(others)))] if others else None


def _generator(text: str) -> np.random.Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _extras(cell: Cell, rng: np.random.Generator) -> tuple[tuple[ObjectShape, ...], tuple[ObjectShape, ...]]:
    chosen = []
    for extra in (cell.distractors, cell.obstacle):
        picks = () if extra is None else rng.choice(len(extra.objects), extra.count, replace=False)
        chosen.append(tuple(extra.objects[int(i)] for i in picks) if extra else ())
    return chosen[0], chosen[1]


def _wording(cell: Cell, task: Task, rng: np.random.Generator) -> str:
    texts = cell.instructions.get(task.name)
    return task.instruction if texts is None else texts[int(rng.integers(len(texts)))]


def _other_wording(suite: Suite, cell: Cell, task: Task, other: Task | None, rng: np.random.Generator) -> str:
    if other is None:
        others = [each for each in suite.tasks.values() if each.name != task.name]
        other = others[int(rng.integers(len(others)))] if others else task
    return _wording(cell, other, rng)


def _look(visual: Visual, rng: np.random.Generator) -> Look:
    """Draw everything in a fixed order, so that a cell's settings do not change each other's draws."""
    table, ambient, diffuse, tint, light, shift, turn = (
        rng.random(), rng.random(), rng.random(), rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3),
        rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3),
    )  # fmt: skip
    colour = None
    if visual.diffuse is not None:
        bright = _between(visual.diffuse, diffuse)
        colour = _triple(np.clip(bright * (1.0 + visual.tint * tint), 0.0, 1.0))
    return Look(
        table=visual.tables[int(table * len(visual.tables))] if visual.tables else None,
        ambient=None if visual.ambient is None else _between(visual.ambient, ambient),
        diffuse=colour,
        light_turn=_triple(visual.light_turn * light),
        camera_shift=_triple(visual.camera_shift * shift),
        camera_turn=_triple(visual.camera_turn * turn),
    )


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
