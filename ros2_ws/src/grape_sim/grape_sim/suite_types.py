"""The plain data of a benchmark suite: tasks, cells, layouts, visual variation. See ``suite.load_suite``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grape_sim.objects import ObjectShape, Vector

if TYPE_CHECKING:
    from grape_sim.initial_state import InitialState

Range = tuple[float, float]
STAGES: dict[str, tuple[str, ...]] = {
    "placed": ("start", "reached", "grasped", "carried", "done"),
    "pushed": ("start", "reached", "moved", "done"),
    "knocked_over": ("start", "reached", "tilted", "done"),
}


class SuiteError(ValueError):
    """A suite file or a name in it is wrong; the message says file, place and remedy in one line."""

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"{where}: {what}. {remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Success:
    """When a task is done.

    kind: ``placed`` (the source rests on or in the target), ``pushed`` (the source stands within ``distance``
    m of the target, centre to centre, and was never lifted), ``knocked_over`` (the source lies, tilted by
    more than ``tilt`` rad).
    """

    kind: str
    distance: float
    tilt: float


@dataclass(frozen=True)
class Task:
    """One task: do something to ``source``, with regard to ``target``; ``instructions[0]`` is the default.

    A task about one object has it as source and as target.
    """

    name: str
    source: str
    target: str
    instructions: tuple[str, ...]
    success: Success
    source_shape: ObjectShape
    target_shape: ObjectShape

    @property
    def instruction(self) -> str:
        """The default wording."""
        return self.instructions[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages an episode can reach, in order."""
        return STAGES[self.success.kind]


@dataclass(frozen=True)
class Zone:
    """Where object centres may lie (ranges in m, base frame) and how far they may be turned (rad)."""

    x: Range
    y: Range
    yaw: float


@dataclass(frozen=True)
class Layout:
    """How objects are laid out at the start; lengths in m.

    reach: greatest distance from the arm's base. grip_room: half extents (x, y) of the open gripper around a
    source. margin: least gap between any two. apart: least distance between the task's source and target.
    """

    source: Zone
    target: Zone
    reach: float
    grip_room: tuple[float, float]
    margin: float
    apart: float


@dataclass(frozen=True)
class Extra:
    """Objects beside those of the tasks: ``count`` of ``objects``, chosen by the initial state's name."""

    objects: tuple[ObjectShape, ...]
    count: int


@dataclass(frozen=True)
class Visual:
    """What looks different from one initial state to the next.

    tables: textures of the table to choose from. ambient, diffuse: ranges of the lights' brightness. tint:
    how much the lights' colour may deviate, 0 .. 1. light_turn: greatest turn (rad) of the light's direction.
    camera_shift: greatest shift (m) per axis and camera_turn greatest turn (rad) per axis of the camera.
    """

    tables: tuple[str, ...] = ()
    ambient: Range | None = None
    diffuse: Range | None = None
    tint: float = 0.0
    light_turn: float = 0.0
    camera_shift: float = 0.0
    camera_turn: float = 0.0


@dataclass(frozen=True)
class Texture:
    """A picture computed from a pattern, two colours and a seed; see ``textures``."""

    name: str
    pattern: str
    colours: tuple[Vector, Vector]
    scale: float


@dataclass(frozen=True)
class Collision:
    """What counts as a collision: contact with ``strangers`` or ``anything_but_target``; force limit in N."""

    kind: str
    hard_force: float


@dataclass(frozen=True)
class Cell:
    """One distribution of initial states, evaluated as one row of a table.

    tasks: one of them is asked for, chosen by the index. other_tasks: the objects of one of them (another
    than the asked one) stand there too. instructions: wordings that replace the task's; the name chooses.
    """

    name: str
    description: str
    tasks: tuple[Task, ...]
    other_tasks: tuple[Task, ...]
    instructions: dict[str, tuple[str, ...]]
    layout: Layout
    distractors: Extra | None
    obstacle: Extra | None
    visual: Visual | None
    collision: Collision
    shapes: tuple[ObjectShape, ...]  # everything that can stand on the table, in the suite's order
    textures: tuple[Texture, ...]


@dataclass(frozen=True)
class Suite:
    """A named set of cells with everything they need; picklable, compared by content."""

    name: str
    description: str
    source: str
    content_hash: str
    max_steps: int
    splits: tuple[str, ...]
    colours: dict[str, Vector]
    textures: dict[str, Texture]
    objects: dict[str, ObjectShape]
    tasks: dict[str, Task]
    cells: dict[str, Cell]

    @property
    def plain_ids(self) -> bool:
        """Whether names of initial states begin with the cell alone: only those of ``in_domain`` do."""
        return self.name == "in_domain"

    def state_id(self, cell: str, split: str, index: int) -> str:
        """Return the name of an initial state, e.g. ``obstacle.carrot_on_plate/eval/0007``."""
        prefix = "" if self.plain_ids else f"{self.name}."
        return f"{prefix}{cell}/{split}/{index:04d}"

    def state_ids(
        self, split: str, per_cell: int, first: int = 0, cells: Sequence[str] | None = None
    ) -> list[str]:
        """Return names of ``per_cell`` initial states of every cell (or of ``cells``), index by index.

        Raises:
            SuiteError: unknown cell or split, or nothing to run.
        """
        chosen = list(self.cells) if cells is None else list(cells)
        unknown = [name for name in chosen if name not in self.cells]
        if unknown or not chosen:
            what = f"unknown cell {', '.join(unknown) or '(none)'}"
            raise SuiteError(f"suite {self.name}", what, f"Cells: {', '.join(self.cells)}")
        if split not in self.splits or per_cell < 1:
            remedy = f"Give at least one state; splits: {', '.join(self.splits)}"
            raise SuiteError(f"suite {self.name}", f"{per_cell} states of split {split!r}", remedy)
        return [self.state_id(cell, split, first + i) for i in range(per_cell) for cell in chosen]

    def sample(self, initial_state_id: str) -> InitialState:
        """Return the initial state of that name; a pure function of the name and of this suite."""
        from grape_sim.initial_state import sample

        return sample(initial_state_id, self)

    def cell_of(self, initial_state_id: str) -> Cell:
        """Return the cell that a name of an initial state belongs to; ``SuiteError`` if it is not ours."""
        from grape_sim.initial_state import parse_id

        return self.cells[parse_id(initial_state_id, self).cell]

    def find_task(self, name: str) -> Task:
        """Return the task called ``name``; ``SuiteError`` that lists the known ones."""
        if name not in self.tasks:
            known = ", ".join(self.tasks)
            raise SuiteError(f"suite {self.name}", f"unknown task {name!r}", f"Known tasks: {known}")
        return self.tasks[name]
