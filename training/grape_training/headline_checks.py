"""What a study may not ask for: unknown names, claims without cells, states used twice and the like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from grape_training.tpo_options import TpoOptions

if TYPE_CHECKING:
    from grape_training.headline_plan import Study


def check_study(study: Study) -> None:
    """Look at a study as a whole.

    Raises:
        ValueError: what is wrong and where.
    """
    _check_names(study)
    _check_claims(study)
    _check_failed_in(study)
    for name in study.arms:
        _check_needs(study, name, ())
    _check_states(study)
    _check_data(study)


def suite_name(suite: str) -> str:
    """Return what a suite, by name or file, is called in names of stages and files."""
    return Path(suite).stem


def _check_names(study: Study) -> None:
    for name, data in study.data.items():
        _known(f"data.{name}.collections", data.collections, study.collections)
    for name, each in study.collections.items():
        _known(f"collections.{name}.policy", [each.policy], study.arms)
        _known(f"collections.{name}.failed_in", [each.failed_in] if each.failed_in else [], study.data)
    for name, arm in study.arms.items():
        _known(f"arms.{name}.incumbent", [arm.incumbent] if arm.incumbent else [], study.arms)
        if arm.incumbent and study.gate is None:
            raise ValueError(f"arms.{name}: an incumbent needs a gate; say from which states")
        _known(f"arms.{name}.data", arm.data, study.data)
    names = [suite_name(each.title) for each in study.evaluation.suites]
    if len(set(names)) < len(names):
        raise ValueError("evaluation.suites: a suite is there twice; give one of them another name")
    for evaluated in study.evaluation.suites:
        _known(f"evaluation.suites.{evaluated.title}.arms", evaluated.arms, study.arms)


def _check_claims(study: Study) -> None:
    """Every claim needs its arm and the reference on its suites."""
    claims, cells = study.claims, {(suite, arm) for suite, arm, _ in study.cells}
    wanted = [(suite, arm) for suite in claims.in_domain for arm in (*claims.baselines, *claims.iterations)]
    wanted += [(suite, claims.candidate) for suite in (*claims.in_domain, *claims.unseen)]
    wanted += [(s, c.arm) for c in (claims.collisions, claims.steps) if c is not None for s in c.suites]
    for suite, arm in wanted:
        if not {(suite, arm), (suite, claims.reference)} <= cells:
            raise ValueError(
                f"claims: {arm} and {claims.reference} are not both evaluated on {suite}; "
                "add them to evaluation.suites"
            )


def _check_needs(study: Study, name: str, seen: tuple[str, ...]) -> None:
    """Refuse an arm that needs itself, by its incumbent or by who collected its data."""
    if name in seen:
        raise ValueError(f"arms: {' needs '.join((*seen, name))}; an arm cannot need itself")
    arm = study.arms[name]
    if not arm.data and (arm.incumbent or len(arm.seeds) > 1 or arm.tpo != TpoOptions()):
        raise ValueError(f"arms.{name}: nothing is trained without data; give its data, or only a title")
    collected = list(chain.from_iterable(study.data[data].collections for data in arm.data))
    twice = sorted(each for each, count in Counter(collected).items() if count > 1)
    if twice:
        raise ValueError(f"arms.{name}.data: {twice[0]} is in two of the data sets; take others")
    presets = sorted({study.data[data].preset for data in arm.data})
    if len(presets) > 1:
        raise ValueError(
            f"arms.{name}.data: the data sets have the presets {' and '.join(presets)}; take one"
        )
    for other in {arm.incumbent, *(study.collections[each].policy for each in collected)} - {""}:
        _check_needs(study, other, (*seen, name))


def _check_states(study: Study) -> None:
    """Refuse initial states that are used twice: to collect from, for the gate, to evaluate on."""
    gate = set(study.gate.state_ids()) if study.gate else set()
    evaluated = {
        state for each in study.evaluation.suites for state in study.evaluation.state_ids(each.title)
    }
    _apart("gate", gate, evaluated, "are evaluated")
    for name, collection in study.collections.items():
        states = set(collection.state_ids())
        _apart(f"collections.{name}", states, evaluated, "are evaluated")
        _apart(f"collections.{name}", states, gate, "are the gate's")


def _check_data(study: Study) -> None:
    """Refuse to train on data in which no initial state has two rollouts: there is nothing to compare."""
    for name in sorted({data for arm in study.arms.values() for data in arm.data}):
        rollouts: Counter[str] = Counter()
        for collection in (study.collections[each] for each in study.data[name].collections):
            rollouts.update(dict.fromkeys(collection.state_ids(), collection.rollouts))
        if max(rollouts.values()) < 2:
            raise ValueError(f"data.{name}: no initial state has two rollouts to compare; collect more")


def _check_failed_in(study: Study) -> None:
    """Refuse a collection that waits for the failures of one that waits itself: it may be the same."""
    for name, collection in study.collections.items():
        needed = study.data[collection.failed_in].collections if collection.failed_in else ()
        waiting = [each for each in needed if study.collections[each].failed_in]
        if waiting:
            raise ValueError(
                f"collections.{name}: {collection.failed_in} has {waiting[0]}, which waits for failures "
                "too; name a data set of collections that do not"
            )


def _apart(where: str, states: set[str], others: set[str], what: str) -> None:
    shared = sorted(states & others)
    if shared:
        raise ValueError(
            f"{where}: {len(shared)} initial states {what} too, the first is {shared[0]}; take another split "
            "or other numbers"
        )


def _known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown name {', '.join(unknown)}; there are {', '.join(known)}")
