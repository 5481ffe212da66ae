"""What an evaluation found: rates and means per cell, over all episodes (micro) and over cells (macro)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from grape_training.statistics import (
    Estimate,
    holm,
    macro_average,
    mean_difference,
    paired_difference,
    proportion,
)

if TYPE_CHECKING:
    from grape_training.cells import CellResult

FLAGS: dict[str, Callable[[CellResult], bool]] = {
    "success": lambda cell: cell.success,
    "grasped": lambda cell: cell.grasped,
    "collided": lambda cell: cell.collisions > 0,
}
QUANTITIES: dict[str, Callable[[CellResult], float]] = {
    "steps": lambda cell: cell.steps,
    "collision_steps": lambda cell: cell.collisions,
    "path_length": lambda cell: cell.path_length,
    "jerk": lambda cell: cell.jerk,
    "seconds": lambda cell: cell.seconds,
}


def summarise(cells: Sequence[CellResult]) -> dict[str, Any]:
    """Return rates (Wilson 95 %) and means: ``pooled`` over episodes, per task (cell), and ``macro``."""
    by_task = {task: _summary(found) for task, found in by_cell(cells).items()}
    macro = {
        name: asdict(macro_average([_estimate(found[name], "rate") for found in by_task.values()]))
        for name in FLAGS
    }
    return {"pooled": _summary(cells), "tasks": by_task, "macro": macro}


def by_cell(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Return the results of each cell (task), sorted by name."""
    found: dict[str, list[CellResult]] = {task: [] for task in sorted({cell.task for cell in cells})}
    for cell in cells:
        found[cell.task].append(cell)
    return found


def _estimate(document: dict[str, Any], value: str) -> Estimate:
    return Estimate(document[value], document["low"], document["high"])


def _summary(cells: Sequence[CellResult]) -> dict[str, Any]:
    successful = [cell.steps for cell in cells if cell.success]
    stages: dict[str, int] = {}
    for cell in cells:
        stages[cell.stage] = stages.get(cell.stage, 0) + 1
    return {
        "episodes": len(cells),
        **{name: asdict(proportion([flag(cell) for cell in cells])) for name, flag in FLAGS.items()},
        **{name: float(np.mean([value(cell) for cell in cells])) for name, value in QUANTITIES.items()},
        "steps_to_success": float(np.mean(successful)) if successful else None,
        "stages": stages,
    }


def compare(candidate: Sequence[CellResult], incumbent: Sequence[CellResult]) -> dict[str, Any]:
    """Return paired differences (candidate - incumbent) over the same episodes.

    Success, grasps and collisions: exact McNemar; steps and so on: bootstrap intervals of the mean.
    ``steps_both_succeed`` looks only at initial states that both solve: who fails at once is not fast.

    Raises:
        ValueError: the two were evaluated on different initial states.
    """
    if [c.initial_state_id for c in candidate] != [c.initial_state_id for c in incumbent]:
        raise ValueError("the two evaluations cover different initial states")
    shares = {
        name: asdict(paired_difference([flag(c) for c in candidate], [flag(c) for c in incumbent]))
        for name, flag in FLAGS.items()
    }
    means = {
        name: asdict(mean_difference([value(c) for c in candidate], [value(c) for c in incumbent]))
        for name, value in QUANTITIES.items()
    }
    both = [(a.steps, b.steps) for a, b in zip(candidate, incumbent, strict=True) if a.success and b.success]
    steps = mean_difference([a for a, _ in both], [b for _, b in both]) if both else None
    return {**shares, **means, "steps_both_succeed": asdict(steps) if steps else None}


def compare_cells(candidate: Sequence[CellResult], incumbent: Sequence[CellResult]) -> dict[str, Any]:
    """Return :func:`compare` over all episodes (micro), and below ``tasks`` and ``macro`` by and over tasks.

    ``p_holm`` of each task is its two-sided McNemar p-value after Holm's correction for their number.
    """
    pooled = compare(candidate, incumbent)
    new, old = by_cell(candidate), by_cell(incumbent)
    tasks = {task: compare(new[task], old[task]) for task in new}
    adjusted = holm({task: found["success"]["p_two_sided"] for task, found in tasks.items()})
    for task, found in tasks.items():
        found["success"]["p_holm"] = adjusted[task]
    macro = {
        name: asdict(macro_average([_estimate(found[name], "difference") for found in tasks.values()]))
        for name in (*FLAGS, *QUANTITIES)
    }
    return {**pooled, "tasks": tasks, "macro": macro}
