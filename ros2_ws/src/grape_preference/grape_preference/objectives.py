"""Objectives: what the stage costs put their weight on (GRAPE's thresholds for safety and efficiency)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from grape_preference.constraints import Constraint, StagePlan

DEFAULT_OBJECTIVE = "task"


@dataclass(frozen=True)
class Objective:
    """Factors on threshold (tau) and weight of the constraints of some kinds; what is not named stays."""

    doc: str
    thresholds: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


OBJECTIVES: dict[str, Objective] = {
    "task": Objective("the stage files as they are"),
    "safety": Objective(
        "collision constraints with a quarter of the threshold and four times the weight",
        {"collision": 0.25},
        {"collision": 4.0},
    ),
    "efficiency": Objective(
        "path constraints with half the threshold and four times the weight", {"path": 0.5}, {"path": 4.0}
    ),
}


def apply_objective(plan: StagePlan, name: str) -> StagePlan:
    """Return ``plan`` with the objective's thresholds and weights; raise ValueError for an unknown one.

    Only thresholds above zero are lowered: zero is as strict as it gets, and a negative one asks for more
    already. The plan's hash covers the objective.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    if name == DEFAULT_OBJECTIVE:
        return plan
    objective = OBJECTIVES[name]
    stages = tuple(
        replace(stage, constraints=tuple(_scaled(item, objective) for item in stage.constraints))
        for stage in plan.stages
    )
    return replace(plan, stages=stages, sha256=hashlib.sha256(f"{plan.sha256} {name}".encode()).hexdigest())


def _scaled(constraint: Constraint, objective: Objective) -> Constraint:
    factor = objective.thresholds.get(constraint.kind, 1.0) if constraint.threshold > 0.0 else 1.0
    return replace(
        constraint,
        threshold=constraint.threshold * factor,
        weight=constraint.weight * objective.weights.get(constraint.kind, 1.0),
    )
