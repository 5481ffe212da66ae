"""What a study found, from its raw results alone: every cell with its intervals, and the headline figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from grape_training.cells import CellResult
from grape_training.comparison import FLAGS, QUANTITIES, by_cell
from grape_training.headline_plan import Claim
from grape_training.headline_raw import Raw
from grape_training.headline_statistics import (
    Values,
    difference,
    mean_of_states,
    paired_bootstrap,
    relative_change,
    sign_flip_test,
    wilson_of_states,
)
from grape_training.statistics import paired_difference, proportion

MEASURED = [name for name in QUANTITIES if name != "seconds"]
DEFINITIONS = {
    "in_domain_gain": "success of the candidate relative to the reference's (rate / rate - 1), in-domain",
    "unseen_gain": "the same over all episodes of the unseen suites that the paper has",
    "collision_change": "share of episodes with a forbidden contact, safety objective relative to reference",
    "steps_change": "mean steps of all episodes (a failure lasts to the limit), efficiency objective "
    "relative to the reference",
    "steps_change_both_succeed": "the same over the episodes that both solve",
    "p_in_domain_vs": "two-sided exact sign-flip test over initial states, all seeds pooled (a state is one "
    "unit); with one seed each it is McNemar's test. p_by_seed: McNemar's exact test seed by seed",
    "low, high": "95 %. Rates: Wilson for as many trials as initial states. Means, differences and changes: "
    "bootstrap over initial states; low_seeds, high_seeds: over initial states and training seeds",
}
SIGNIFICANT_DIGITS = 6  # what is beyond depends on the numerical library


def make_summary(raw: Raw) -> dict[str, Any]:
    """Return ``headline.json``; figures whose cells are missing are null."""
    document: dict[str, Any] = {
        "study": raw.study.name,
        "complete": not raw.missing,
        "missing": ["/".join(map(str, key)) for key in raw.missing],
        **_headline(raw),
        "definitions": DEFINITIONS,
        "cells": _cells(raw),
        "training": _by_kind(raw, "train"),
        "gate": _by_kind(raw, "gate"),
        "collections": _by_kind(raw, "collect"),
        "data": _by_kind(raw, "score"),
        "hours": hours(raw),
        "machines": _machines(raw),
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _headline(raw: Raw) -> dict[str, Any]:
    claims = raw.study.claims
    found = {
        "in_domain_gain": _change(raw, Claim(arm=claims.candidate, suites=claims.in_domain), _success),
        "unseen_gain": _change(raw, Claim(arm=claims.candidate, suites=claims.unseen), _success)
        if claims.unseen
        else None,
        "collision_change": _change(raw, claims.collisions, _collided),
        "steps_change": _change(raw, claims.steps, _steps),
        "steps_change_both_succeed": _both_succeed(raw, claims.steps),
    }
    against = {
        arm: _against(raw, claims.in_domain, claims.candidate, arm)
        for arm in claims.baselines
        if arm != claims.candidate
    }
    return {
        **{name: about["value"] if about else None for name, about in found.items()},
        "p_in_domain_vs": {arm: it["success"]["p_two_sided"] if it else None for arm, it in against.items()},
        "claims": found,
        "in_domain_vs": against,
    }


def _success(cell: CellResult) -> float:
    return cell.success


def _collided(cell: CellResult) -> float:
    return cell.collisions > 0


def _steps(cell: CellResult) -> float:
    return cell.steps


def seeds_of(raw: Raw, suites: Iterable[str], arm: str) -> list[int]:
    """Return the seeds of ``arm`` that were evaluated on all of ``suites``."""
    return [s for s in raw.study.arms[arm].seeds if all((suite, arm, s) in raw.episodes for suite in suites)]


def values(
    raw: Raw, suites: Sequence[str], arm: str, measure: Callable[[CellResult], float]
) -> Values | None:
    """Return ``measure`` of an arm's episodes, (seeds, states of all suites); None if there are none."""
    seeds = seeds_of(raw, suites, arm)
    rows = [[measure(c) for suite in suites for c in raw.episodes[suite, arm, seed]] for seed in seeds]
    return np.array(rows, np.float64) if rows else None


def _change(raw: Raw, claim: Claim | None, measure: Callable[[CellResult], float]) -> dict[str, Any] | None:
    """Return the relative change of the mean of ``measure`` against the reference."""
    if claim is None:
        return None
    reference = raw.study.claims.reference
    new, old = (values(raw, claim.suites, arm, measure) for arm in (claim.arm, reference))
    return None if new is None or old is None else _relative(claim, new, old)


def _relative(claim: Claim, new: Values, old: Values) -> dict[str, Any] | None:
    estimate = paired_bootstrap(new, old, relative_change)
    wide = paired_bootstrap(new, old, relative_change, seeds_too=True)
    if estimate is None or wide is None:
        return None
    return {
        "arm": claim.arm,
        "suites": list(claim.suites),
        "seeds": len(new),
        "states": new.shape[1],
        "candidate": float(new.mean()),
        "reference": float(old.mean()),
        **asdict(estimate),
        "low_seeds": wide.low,
        "high_seeds": wide.high,
    }


def _both_succeed(raw: Raw, claim: Claim | None) -> dict[str, Any] | None:
    """Return the relative change of steps over the (seed, state) that arm and reference both solve."""
    if claim is None:
        return None
    arms = (claim.arm, raw.study.claims.reference)
    solved = _paired(*(values(raw, claim.suites, arm, _success) for arm in arms))
    steps = _paired(*(values(raw, claim.suites, arm, _steps) for arm in arms))
    if solved is None or steps is None:
        return None
    both = solved[0] * solved[1]
    # Sums over the seeds per state: their ratio is that of the means over the episodes both solve.
    sums = [(each * both).sum(axis=0, keepdims=True) for each in steps]
    estimate = paired_bootstrap(sums[0], sums[1], relative_change)
    if estimate is None:
        return None
    means = [float(each.sum() / both.sum()) for each in sums]
    return {
        "episodes": int(both.sum()),
        "candidate": means[0],
        "reference": means[1],
        **asdict(estimate),
    }


def _cells(raw: Raw) -> dict[str, dict[str, Any]]:
    reference = raw.study.claims.reference
    suites = [each.title for each in raw.study.evaluation.suites]
    found: dict[str, dict[str, Any]] = {}
    for suite in suites:
        arms = [arm for arm in raw.study.arms if seeds_of(raw, [suite], arm)]
        found[suite] = {arm: _cell(raw, suite, arm) for arm in arms}
        for arm in arms:
            found[suite][arm]["against_reference"] = (
                _against(raw, [suite], arm, reference) if arm != reference else None
            )
    return found


def _cell(raw: Raw, suite: str, arm: str) -> dict[str, Any]:
    """Return what an arm did on a suite: by seed, and over seeds with intervals."""
    seeds = seeds_of(raw, [suite], arm)
    episodes = {seed: raw.episodes[suite, arm, seed] for seed in seeds}
    arrays = {name: values(raw, [suite], arm, measure) for name, measure in {**FLAGS, **QUANTITIES}.items()}
    known = {name: array for name, array in arrays.items() if array is not None}
    tasks = [by_cell(cells) for cells in episodes.values()]
    return {
        "title": raw.study.arms[arm].title,
        "episodes": sum(map(len, episodes.values())),
        "states": known["success"].shape[1],
        **{name: asdict(wilson_of_states(known[name] > 0)) for name in FLAGS},
        **{name: asdict(mean_of_states(known[name])) for name in MEASURED},
        "tasks": {
            task: float(np.mean([cell.success for found in tasks for cell in found[task]]))
            for task in tasks[0]
        },
        "seeds": {str(seed): _of_seed(cells) for seed, cells in episodes.items()},
    }


def _of_seed(cells: Sequence[CellResult]) -> dict[str, Any]:
    steps = [cell.steps for cell in cells if cell.success]
    return {
        "episodes": len(cells),
        **{name: asdict(proportion([flag(cell) for cell in cells])) for name, flag in FLAGS.items()},
        **{name: float(np.mean([QUANTITIES[name](cell) for cell in cells])) for name in MEASURED},
        "steps_to_success": float(np.mean(steps)) if steps else None,
    }


def _against(raw: Raw, suites: Sequence[str], arm: str, other: str) -> dict[str, Any] | None:
    """Return the paired differences of two arms: rates with tests, means with intervals."""
    found: dict[str, Any] = {}
    for name, measure in FLAGS.items():
        new, old = values(raw, suites, arm, measure), values(raw, suites, other, measure)
        pairs = _paired(new, old)
        if new is None or old is None or pairs is None:
            return None
        test = sign_flip_test(new > 0, old > 0)
        by_seed = [paired_difference(list(a > 0), list(b > 0)) for a, b in zip(*pairs, strict=True)]
        tests = {**asdict(test), "p_by_seed": [each.p_two_sided for each in by_seed]}
        found[name] = {**_difference(new, old), **tests, "by_seed": [asdict(each) for each in by_seed]}
    for name in MEASURED:
        new, old = values(raw, suites, arm, QUANTITIES[name]), values(raw, suites, other, QUANTITIES[name])
        if new is not None and old is not None:
            found[name] = _difference(new, old)
    return found


def _paired(new: Values | None, old: Values | None) -> tuple[Values, Values] | None:
    """Pair the seeds in their order; an arm with one seed is paired with every seed of the other."""
    if new is None or old is None:
        return None
    count = max(len(new), len(old)) if 1 in (len(new), len(old)) else min(len(new), len(old))
    order = np.arange(count)
    return new[order % len(new)], old[order % len(old)]


def _difference(new: Values, old: Values) -> dict[str, Any]:
    estimate = paired_bootstrap(new, old, difference)
    wide = paired_bootstrap(new, old, difference, seeds_too=True)
    if estimate is None or wide is None:
        raise ValueError("a measured quantity is not finite")
    return {**asdict(estimate), "low_seeds": wide.low, "high_seeds": wide.high}


def _by_kind(raw: Raw, kind: str) -> dict[str, Any]:
    return {
        name.split("/", 1)[1]: {**stage["result"], **stage["cost"]}
        for name, stage in raw.stages.items()
        if name.split("/")[0] == kind
    }


def hours(raw: Raw) -> dict[str, dict[str, float]]:
    """Return wall and processor hours by kind of stage; trainings run side by side, so their wall adds up."""
    found: dict[str, dict[str, float]] = {}
    for name, stage in raw.stages.items():
        kind = found.setdefault(name.split("/")[0], {"wall": 0.0, "processor": 0.0})
        for clock in kind:
            kind[clock] += stage["cost"][clock] / 3600.0
    total = {clock: sum(kind[clock] for kind in found.values()) for clock in ("wall", "processor")}
    return {
        name: {c: round(h, 3) for c, h in clocks.items()}
        for name, clocks in {**found, "total": total}.items()
    }


def _machines(raw: Raw) -> list[dict[str, Any]]:
    """Return the machines that took part, each once."""
    found: list[dict[str, Any]] = []
    for stage in raw.stages.values():
        if stage["machine"] not in found:
            found.append(stage["machine"])
    return found
