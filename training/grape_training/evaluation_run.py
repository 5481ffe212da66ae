"""A whole evaluation: episodes, paired comparisons, checks against fooling, films, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grape_training.checks import RunOptions, check_against_fooling, film_and_check_determinism, first_states
from grape_training.comparison import compare_cells, summarise
from grape_training.errors import BadInputError
from grape_training.evaluation import evaluate
from grape_training.evaluation_report import write_evaluation_report
from grape_training.files import write_json
from grape_training.policies import SCRIPTED, PolicySpec
from grape_training.pool_ray import check_cluster
from grape_training.suites import EvaluationSuite, load_suite

SUMMARY_NAME = "evaluation.json"


def choose_states(suite: EvaluationSuite, cells: Sequence[str], split: str, per_cell: int) -> list[str]:
    """Return the initial states of ``cells`` (none: all cells of ``suite``).

    Raises:
        BadInputError: a cell or split that the suite does not have.
    """
    unknown = sorted(set(cells) - set(suite.cells))
    if unknown:
        known = ", ".join(suite.cells)
        raise BadInputError(f"unknown task {', '.join(unknown)}", f"Suite {suite.name} has: {known}")
    return suite.state_ids(split, per_cell, cells=list(cells) or None)


def name_policies(
    sources: Sequence[str], temperature: float = 0.0, shuffle: str = "none", mirrored: bool = False
) -> dict[str, PolicySpec]:
    """Return the policies under short names: the last part of their path, made unique by a number.

    Raises:
        BadInputError: a source is neither a folder nor the name of a scripted policy.
    """
    names = [Path(source).name for source in sources]
    specs = {}
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        if source not in SCRIPTED and not Path(source).is_dir():
            raise BadInputError(
                f"{source} is no folder of a policy", f"Give such a folder, or {', '.join(SCRIPTED)}"
            )
        unique = name if names.count(name) == 1 else f"{name}_{index}"
        specs[unique] = PolicySpec(source, temperature, shuffle, mirrored)
    return specs


def run_evaluation(
    policies: Mapping[str, PolicySpec],
    states: Sequence[str],
    output: Path,
    run: RunOptions,
    *,
    check_states: int,
    film_states: int,
) -> dict[str, Any]:
    """Run and check everything; return the summary, which is also in ``<output>/evaluation.json``.

    Args:
        policies: by name; the first is the one the others are compared with.
        states: initial states, ``per_cell`` of each cell.
        output: folder of results; what is there already is not run again.
        run: suite, workers, seed and so on.
        check_states: initial states per cell for the checks against fooling; 0 skips them.
        film_states: initial states per cell that are filmed. With checks at least one is run twice.

    Raises:
        UserError: an episode gave other numbers when it was repeated, or a worker died.
    """
    suite = load_suite(run.suite)
    if run.ray:
        check_cluster(run.ray)
    results = evaluate(policies, states, output, **vars(run))
    first = next(iter(policies))
    checks = None
    if check_states:
        checks = check_against_fooling(
            policies, results, first_states(states, check_states), output / "checks", run
        )
    again = first_states(states, max(film_states, 1 if check_states else 0))
    films = film_and_check_determinism(policies, results, again, run) if again else {}
    if checks is not None:
        checks["determinism"] = len(again) * len(policies)
    document = {
        "suite": suite.name,
        "suite_hash": suite.content_hash,
        "description": suite.description,
        "seed": run.seed,
        "max_steps": run.max_steps,
        "policies": {name: summarise(cells) for name, cells in results.items()},
        "compared_with_first": {
            name: compare_cells(results[name], results[first]) for name in policies if name != first
        },
        "checks": checks,
    }
    report = write_evaluation_report(output, suite, document, results, films if film_states else {})
    document["report"] = str(report)
    write_json(output / SUMMARY_NAME, document)
    return document
