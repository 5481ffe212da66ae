"""Paired evaluation: every policy on the same initial states, with intervals, exact tests and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from grape_training.errors import BadInputError
from grape_training.files import append_json_line, hash_json, read_json_lines
from grape_training.policies import PolicySpec, cell_seed, start_actor
from grape_training.pool import run_parallel
from grape_training.statistics import paired_difference, proportion

if TYPE_CHECKING:
    from grape_sim.environment import SimEnvironment

DEFAULT_MAX_STEPS = 50


@dataclass(frozen=True)
class CellResult:
    """One evaluated episode: verdict, steps with a forbidden contact, steps until success or the limit."""

    initial_state_id: str
    success: bool
    grasped: bool
    collisions: int
    steps: int

    @property
    def task(self) -> str:
        """The task, which is the first part of the initial state's name."""
        return self.initial_state_id.split("/")[0]


@dataclass(frozen=True)
class _Cell:
    name: str
    spec: PolicySpec
    initial_state_id: str


def initial_states(tasks: Sequence[str], split: str, per_task: int, first: int = 0) -> list[str]:
    """Return the ids of ``per_task`` initial states of every task, e.g. ``carrot_on_plate/eval/0000``.

    Raises:
        BadInputError: unknown task or split, or nothing to run.
    """
    from grape_sim.initial_state import SPLITS, make_id
    from grape_sim.tasks import TASKS

    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not tasks:
        raise BadInputError(f"unknown task {', '.join(unknown) or '(none)'}", f"Tasks: {', '.join(TASKS)}")
    if split not in SPLITS or per_task < 1:
        raise BadInputError(
            f"{per_task} states of split {split!r}", f"Give at least one; splits: {', '.join(SPLITS)}"
        )
    return [make_id(task, split, first + index) for index in range(per_task) for task in tasks]


def evaluate(
    policies: Mapping[str, PolicySpec],
    states: Sequence[str],
    output: Path,
    *,
    workers: int = 2,
    max_steps: int = DEFAULT_MAX_STEPS,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, list[CellResult]]:
    """Run every policy from every initial state; return the results per policy in the order of ``states``.

    Each finished episode is one line of ``<output>/<policy>-<hash>.jsonl``; a second call runs only what is
    missing. Results do not depend on ``workers``: an episode runs alone, on one thread, from its own seed.
    """
    paths = {
        name: output / f"{name}-{_run_hash(spec, max_steps, seed)[:8]}.jsonl"
        for name, spec in policies.items()
    }
    done = {name: _read(path) for name, path in paths.items()}
    # State by state, so that an interrupted evaluation still holds pairs.
    cells = [_Cell(n, s, state) for state in states for n, s in policies.items() if state not in done[n]]
    function = partial(run_cell, max_steps=max_steps, seed=seed)
    total = len(states) * len(policies)
    bar = tqdm(total=total, initial=total - len(cells), desc="evaluation", unit="ep", disable=not progress)
    with bar, closing(run_parallel(function, cells, workers)) as results:
        for cell, result in results:
            append_json_line(paths[cell.name], asdict(result))
            done[cell.name][result.initial_state_id] = result
            bar.update()
    return {name: [done[name][state] for state in states] for name in policies}


def _run_hash(spec: PolicySpec, max_steps: int, seed: int) -> str:
    """Return the identity of a run; the content of a policy folder counts, not its place."""
    from grape_training.files import hash_folder

    folder = Path(spec.source)
    content = hash_folder(folder) if folder.is_dir() else spec.source
    return hash_json([content, spec.temperature, spec.shuffle, max_steps, seed])


def _read(path: Path) -> dict[str, CellResult]:
    try:
        return {row["initial_state_id"]: CellResult(**row) for row in read_json_lines(path)}
    except (TypeError, KeyError) as error:
        raise BadInputError(f"{path} is damaged ({error})", "Delete it to evaluate again") from error


@lru_cache(maxsize=1)
def _environment() -> SimEnvironment:
    from grape_sim.environment import SimEnvironment

    return SimEnvironment()


def run_cell(cell: _Cell, *, max_steps: int, seed: int) -> CellResult:
    """Run one episode in this process's environment; a refused action ends it, as on the arm."""
    from grape_policy.arm.safety import ActionRefused

    environment = _environment()
    actor, observation = start_actor(
        cell.spec, environment, cell.initial_state_id, cell_seed(seed, cell.initial_state_id)
    )
    steps = 0
    while steps < max_steps and not environment.success_now:
        try:
            observation = environment.step(actor.act(observation))
        except ActionRefused:  # the arm would have stopped here
            break
        steps += 1
    verdict = environment.judge()
    return CellResult(
        cell.initial_state_id, bool(verdict.success), bool(verdict.grasped), int(verdict.collisions), steps
    )


def summarise(cells: Sequence[CellResult]) -> dict[str, Any]:
    """Return success (Wilson 95 %), grasp and collision rates and mean steps, pooled and per task."""
    tasks = sorted({cell.task for cell in cells})
    by_task = {task: _summary([cell for cell in cells if cell.task == task]) for task in tasks}
    return {"pooled": _summary(cells), "tasks": by_task}


def _summary(cells: Sequence[CellResult]) -> dict[str, Any]:
    successful = [cell.steps for cell in cells if cell.success]
    return {
        "episodes": len(cells),
        "success": asdict(proportion([cell.success for cell in cells])),
        "grasped": asdict(proportion([cell.grasped for cell in cells])),
        "collided": asdict(proportion([cell.collisions > 0 for cell in cells])),
        "collision_steps": float(np.mean([cell.collisions for cell in cells])),
        "steps": float(np.mean([cell.steps for cell in cells])),
        "steps_to_success": float(np.mean(successful)) if successful else None,
    }


def compare(candidate: Sequence[CellResult], incumbent: Sequence[CellResult]) -> dict[str, Any]:
    """Return paired differences (candidate - incumbent) of success, grasps and collisions.

    Raises:
        ValueError: the two were evaluated on different initial states.
    """
    if [c.initial_state_id for c in candidate] != [c.initial_state_id for c in incumbent]:
        raise ValueError("the two evaluations cover different initial states")
    flags: dict[str, Callable[[CellResult], bool]] = {
        "success": lambda cell: cell.success,
        "grasped": lambda cell: cell.grasped,
        "collided": lambda cell: cell.collisions > 0,
    }
    return {
        name: asdict(paired_difference(_flags(candidate, flag), _flags(incumbent, flag)))
        for name, flag in flags.items()
    }


def _flags(cells: Iterable[CellResult], flag: Callable[[CellResult], bool]) -> list[bool]:
    return [flag(cell) for cell in cells]
