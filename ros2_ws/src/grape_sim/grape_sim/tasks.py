"""The four manipulation tasks of the paper's simulated WidowX suite, by object and instruction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task: bring ``source`` onto or into ``target``; ``instructions[0]`` is the default."""

    name: str
    source: str
    target: str
    instructions: tuple[str, ...]

    @property
    def instruction(self) -> str:
        """The default wording."""
        return self.instructions[0]


_TASKS = (
    Task(
        "carrot_on_plate",
        "carrot",
        "plate",
        ("put the carrot on the plate", "place the carrot onto the plate", "move the carrot to the plate"),
    ),
    Task(
        "eggplant_in_basket",
        "eggplant",
        "basket",
        (
            "put the eggplant in the basket",
            "place the eggplant into the basket",
            "drop the eggplant in the basket",
        ),
    ),
    Task(
        "stack_cube",
        "green_cube",
        "yellow_cube",
        (
            "stack the green cube on the yellow cube",
            "put the green cube on the yellow cube",
            "place the green cube on top of the yellow cube",
        ),
    ),
    Task(
        "spoon_on_towel",
        "spoon",
        "towel",
        ("put the spoon on the towel", "place the spoon onto the towel", "move the spoon to the towel"),
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def find_task(name: str) -> Task:
    """Return the task called ``name``; raises ``ValueError`` that lists the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}")
    return TASKS[name]
