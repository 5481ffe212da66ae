"""Paired evaluation: every policy on the same initial states, resumable, on processes or a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from grape_training.cells import IN_DOMAIN, Cell, run_cell
from grape_training.cells import CellResult as CellResult
from grape_training.comparison import compare as compare
from grape_training.comparison import summarise as summarise
from grape_training.errors import BadInputError
from grape_training.files import append_json_line, hash_json, read_json_lines
from grape_training.policies import PolicySpec
from grape_training.pool import run_parallel
from grape_training.suites import load_suite

DEFAULT_MAX_STEPS = 50
DEFAULT_STATES = 200  # of each cell: a rate of 50 % is then known to 7 points
_FORMAT = 2  # of the result lines


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
    suite: str = IN_DOMAIN,
    workers: int = 2,
    ray: str = "",
    max_steps: int = DEFAULT_MAX_STEPS,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, list[CellResult]]:
    """Run every policy from every initial state; return the results per policy in the order of ``states``.

    Each finished episode is one line of ``<output>/<policy>-<hash>.jsonl``; a second call runs only what is
    missing. Results do not depend on ``workers`` nor on where they run (``ray``: see
    :func:`grape_training.pool.run_parallel`): an episode runs alone, on one thread, from its own seed.
    """
    paths = {
        name: output / f"{name}-{run_hash(spec, suite, max_steps, seed)[:8]}.jsonl"
        for name, spec in policies.items()
    }
    done = {name: _read(path) for name, path in paths.items()}
    # State by state, so that an interrupted evaluation still holds pairs.
    cells = [Cell(n, s, state) for state in states for n, s in policies.items() if state not in done[n]]
    function = partial(run_cell, max_steps=max_steps, seed=seed, suite=suite)
    total = len(states) * len(policies)
    bar = tqdm(total=total, initial=total - len(cells), desc="evaluation", unit="ep", disable=not progress)
    with bar, closing(run_parallel(function, cells, workers, ray)) as results:
        for cell, result in results:
            append_json_line(paths[cell.name], asdict(result))
            done[cell.name][result.initial_state_id] = result
            bar.update()
    return {name: [done[name][state] for state in states] for name in policies}


def run_hash(spec: PolicySpec, suite: str, max_steps: int, seed: int) -> str:
    """Return the identity of a run; the content of a policy folder and of a suite counts, not its place."""
    from grape_training.files import hash_folder

    folder = Path(spec.source)
    content = hash_folder(folder) if folder.is_dir() else spec.source
    inputs = [spec.shuffle, "mirrored"] if spec.mirrored else spec.shuffle
    suite_hash = load_suite(suite).content_hash
    return hash_json([_FORMAT, content, spec.temperature, inputs, suite_hash, max_steps, seed])


def _read(path: Path) -> dict[str, CellResult]:
    try:
        return {row["initial_state_id"]: CellResult(**row) for row in read_json_lines(path)}
    except (TypeError, KeyError) as error:
        raise BadInputError(f"{path} is damaged ({error})", "Delete it to evaluate again") from error
