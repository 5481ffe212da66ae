"""The stages of a study and their order: what matters first, each after what it needs."""

from __future__ import annotations

from dataclasses import dataclass

from grape_training.headline_checks import suite_name
from grape_training.headline_plan import Study

COLLECT, SCORE, TRAIN, GATE, EVALUATE = "collect", "score", "train", "gate", "evaluate"


@dataclass(frozen=True)
class Stage:
    """One stage. ``name``: of the collection, data set or arm; ``seed`` and ``suite`` where they apply."""

    kind: str
    name: str
    needs: tuple[str, ...] = ()
    seed: int = 0
    suite: str = ""

    @property
    def id(self) -> str:
        """Its name among all stages, e.g. ``evaluate/in_domain/grape_1-0``."""
        seed = f"-{self.seed}" if self.kind in (TRAIN, GATE, EVALUATE) else ""
        return "/".join(part for part in (self.kind, suite_name(self.suite), f"{self.name}{seed}") if part)


def list_stages(study: Study) -> list[Stage]:
    """Return all stages: suite by suite and arm by arm, what a stage needs right before it."""
    order: dict[str, Stage] = {}
    for suite, arm, seed in study.cells:
        _add(order, study, _evaluate(study, suite, arm, seed))
    return list(order.values())


def _add(order: dict[str, Stage], study: Study, stage: Stage) -> None:
    if stage.id in order:
        return
    for need in stage.needs:
        _add(order, study, _from_id(study, need))
    order[stage.id] = stage


def _from_id(study: Study, stage_id: str) -> Stage:
    """Return the stage that another one needs."""
    kind, name = stage_id.split("/")
    if kind == COLLECT:
        return _collect(study, name)
    if kind == SCORE:
        return Stage(SCORE, name, tuple(f"{COLLECT}/{each}" for each in study.data[name].collections))
    arm, _, seed = name.rpartition("-")
    if kind == GATE:
        incumbent = policy_need(study, study.arms[arm].incumbent, int(seed))
        return Stage(GATE, arm, (f"{TRAIN}/{name}", *incumbent), int(seed))
    return Stage(TRAIN, arm, tuple(f"{SCORE}/{data}" for data in study.arms[arm].data), int(seed))


def _collect(study: Study, name: str) -> Stage:
    about = study.collections[name]
    failures = (f"{SCORE}/{about.failed_in}",) if about.failed_in else ()
    return Stage(COLLECT, name, (*policy_need(study, about.policy), *failures))


def _evaluate(study: Study, suite: str, arm: str, seed: int) -> Stage:
    return Stage(EVALUATE, arm, policy_need(study, arm, seed), seed, suite)


def policy_need(study: Study, arm: str, seed: int | None = None) -> tuple[str, ...]:
    """Return the stage that makes or chooses the policy of ``arm``; nothing for one that is not trained."""
    if not study.arms[arm].data:
        return ()
    kind = GATE if study.arms[arm].incumbent else TRAIN
    return (f"{kind}/{arm}-{study.seed_of(arm, seed)}",)
