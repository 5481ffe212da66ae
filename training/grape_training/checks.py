"""Checks against fooling oneself, run with every evaluation.

- The expert must solve what is asked, or the suite asks for the impossible.
- A policy that does nothing, and one that moves at random, must not succeed, or success means nothing.
- A policy that is told another instruction, or sees one image of another scene, must do worse than the same
  policy with its own inputs, or it does not use them.
- An episode that is run again, in a fresh process, must give the same numbers bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from grape_training.cells import IN_DOMAIN, Cell, CellResult, film_cell
from grape_training.comparison import by_cell, compare, summarise
from grape_training.errors import UserError
from grape_training.evaluation import DEFAULT_MAX_STEPS, evaluate
from grape_training.policies import SCRIPTED, PolicySpec
from grape_training.pool import run_parallel
from grape_training.suites import has_expert
from grape_training.tables import p_text

PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
EXPERT_RATE, LUCK_RATE, ALPHA = 0.9, 0.05, 0.05
Results = Mapping[str, Sequence[CellResult]]


@dataclass(frozen=True)
class RunOptions:
    """How the episodes of one evaluation are run; see :func:`grape_training.evaluation.evaluate`."""

    suite: str = IN_DOMAIN
    workers: int = 2
    ray: str = ""
    max_steps: int = DEFAULT_MAX_STEPS
    seed: int = 0
    progress: bool = True


@dataclass(frozen=True)
class Finding:
    """What one check found: ``passed``, ``failed``, or ``undecided`` when the data cannot tell."""

    check: str
    policy: str
    verdict: str
    message: str


def first_states(states: Sequence[str], per_cell: int) -> list[str]:
    """Return the first ``per_cell`` initial states of every cell, in their order."""
    counts: dict[str, int] = {}
    chosen = []
    for state in states:
        cell = state.split("/")[0]
        counts[cell] = counts.get(cell, 0) + 1
        if counts[cell] <= per_cell:
            chosen.append(state)
    return chosen


def check_against_fooling(
    policies: Mapping[str, PolicySpec], results: Results, states: Sequence[str], output: Path, run: RunOptions
) -> dict[str, Any]:
    """Run the baselines and the shuffled policies on ``states``; return their summaries and the findings.

    ``results`` are those of ``policies`` on ``states`` and more. The episodes are kept in ``output``.
    """
    learned = {name: spec for name, spec in policies.items() if spec.source not in SCRIPTED}
    baselines = [kind for kind in SCRIPTED if kind != "expert" or has_expert(run.suite)]
    specs = {kind: PolicySpec(kind) for kind in baselines}
    for name, spec in learned.items():
        for shuffle in ("instruction", "image"):
            specs[f"{name}_{shuffle}_shuffled"] = replace(spec, shuffle=shuffle)
    found = evaluate(specs, states, output, **vars(run))
    findings = [_baseline(kind, found[kind]) for kind in baselines]
    for name in learned:
        own = _only(results[name], states)
        findings += [
            _shuffled(name, shuffle, own, found[f"{name}_{shuffle}_shuffled"])
            for shuffle in ("instruction", "image")
        ]
    return {
        "states": len(states),
        "policies": {name: summarise(cells) for name, cells in found.items()},
        "findings": [vars(finding) for finding in findings],
    }


def _only(cells: Sequence[CellResult], states: Sequence[str]) -> list[CellResult]:
    by_state = {cell.initial_state_id: cell for cell in cells}
    return [by_state[state] for state in states]


def _baseline(kind: str, cells: Sequence[CellResult]) -> Finding:
    rates = {name: float(np.mean([c.success for c in found])) for name, found in by_cell(cells).items()}
    text = f"success {np.mean([cell.success for cell in cells]):.0%}"
    if kind == "expert":
        bad = [name for name, rate in rates.items() if rate < EXPERT_RATE]
        rule = f"at least {EXPERT_RATE:.0%} wanted in every cell"
    else:
        bad = [name for name, rate in rates.items() if rate > LUCK_RATE]
        rule = f"at most {LUCK_RATE:.0%} wanted in every cell"
    missed = f"; not so in {', '.join(bad)}" if bad else ""
    return Finding(kind, kind, FAILED if bad else PASSED, f"{text}; {rule}{missed}")


def _shuffled(name: str, shuffle: str, own: Sequence[CellResult], shuffled: Sequence[CellResult]) -> Finding:
    change = compare(own, shuffled)["success"]
    rates = [float(np.mean([cell.success for cell in cells])) for cells in (own, shuffled)]
    p_value = change["p_greater"]
    text = f"success {rates[0]:.0%} with its own {shuffle}, {rates[1]:.0%} with another ({p_text(p_value)})"
    if p_value <= ALPHA:
        verdict = PASSED
    else:
        verdict = UNDECIDED if rates[0] <= LUCK_RATE or rates[0] > rates[1] else FAILED
    return Finding(f"{shuffle} shuffled", name, verdict, text)


def film_and_check_determinism(
    policies: Mapping[str, PolicySpec], results: Results, states: Sequence[str], run: RunOptions
) -> dict[tuple[str, str], np.ndarray]:
    """Run ``states`` again in fresh processes; return the images by policy and initial state.

    Raises:
        UserError: a number of an episode differs from the first time, be it in its last bit.
    """
    known = {(name, cell.initial_state_id): cell for name, cells in results.items() for cell in cells}
    items = [Cell(name, spec, state) for state in states for name, spec in policies.items()]
    function = partial(film_cell, max_steps=run.max_steps, seed=run.seed, suite=run.suite)
    films = {}
    bar = tqdm(total=len(items), desc="films and determinism", unit="ep", disable=not run.progress)
    with bar, closing(run_parallel(function, items, run.workers, run.ray)) as found:
        for cell, (result, images) in found:
            before = known[cell.name, cell.initial_state_id]
            if result != before:
                raise UserError(
                    f"{cell.name} from {cell.initial_state_id} gave {result} the second time, first {before}",
                    "Results that do not repeat say nothing: delete the output folder if the program has "
                    "changed since it was written, else report this as a fault",
                )
            films[cell.name, cell.initial_state_id] = images
            bar.update()
    return films
