"""Cut an episode into stages and cost them: C_i per stage, external reward R_ext (GRAPE eq. 7 and 8)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape_preference.constraints import Constraint, Stage, StagePlan
from grape_preference.language_types import BOOLEAN, Context
from grape_preference.tracks import KeypointTracks


class ScoringError(ValueError):
    """An episode has no score; ``verdict`` is one of VERDICTS."""

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


@dataclass(frozen=True)
class ConstraintScore:
    """One constraint over its stage: the reduced raw value (in ``unit``) and the cost it adds.

    A condition's value is 1 where it is false and 0 where it holds.
    """

    kind: str
    expression: str
    unit: str
    is_condition: bool
    threshold: float
    value: float
    cost: float


@dataclass(frozen=True)
class StageScore:
    """One stage: its frames [begin, end] (None: never begun), its cost C_i, and the cost of every kind.

    ``cost_over_time``: the weighted violations of all its constraints at every frame of the episode, also
    outside the stage (for plots).
    """

    name: str
    begin: int | None
    end: int | None
    completed: bool
    cost: float
    kinds: dict[str, float]
    constraints: tuple[ConstraintScore, ...]
    cost_over_time: tuple[float, ...]


def score_stages(plan: StagePlan, tracks: KeypointTracks) -> tuple[StageScore, ...]:
    """Cut the episode into the plan's stages and return their costs; raise ScoringError if not finite."""
    context = Context(tracks)
    scores: list[StageScore] = []
    earliest: int | None = 0
    with np.errstate(all="ignore"):  # what is not finite is refused below
        for stage in plan.stages:
            begin, end, completed = _span(stage, context, earliest, is_last=stage is plan.stages[-1])
            scores.append(_score_stage(stage, context, begin, end, completed, plan.unreached_cost))
            earliest = end if completed else None
    return tuple(scores)


def external_reward(stages: Sequence[StageScore]) -> float:
    """Return R_ext = product of exp(-C_i), in (0, 1] (eq. 8)."""
    return max(math.exp(-sum(stage.cost for stage in stages)), sys.float_info.min)


def _span(
    stage: Stage, context: Context, earliest: int | None, is_last: bool
) -> tuple[int | None, int | None, bool]:
    """Return (begin, end, completed): the stage's frames, both inclusive; an open stage ends at the last.

    The last stage is completed only if its end still holds at the episode's last frame: what was done and
    undone again does not count.
    """
    if earliest is None:
        return None, None, False
    context.stage_start = earliest
    begin = earliest if stage.start is None else _first(stage.start.values(context), earliest)
    if begin is None:
        return None, None, False
    context.stage_start = begin
    holds = stage.end.values(context)
    end = _first(np.logical_and.accumulate(holds[::-1])[::-1] if is_last else holds, begin)
    return begin, len(context.tracks) - 1 if end is None else end, end is not None


def _first(holds: np.ndarray, earliest: int) -> int | None:
    frames = np.flatnonzero(holds[earliest:])
    return earliest + int(frames[0]) if len(frames) else None


def _score_stage(
    stage: Stage, context: Context, begin: int | None, end: int | None, completed: bool, unreached_cost: float
) -> StageScore:
    last = len(context.tracks) - 1
    context.stage_start = last if begin is None else begin
    values = [_values(constraint, context) for constraint in stage.constraints]
    violations = [np.maximum(0.0, v - c.threshold) for v, c in zip(values, stage.constraints, strict=True)]
    terms = tuple(
        _constraint_score(constraint, value, violation, begin, last if end is None else end)
        for constraint, value, violation in zip(stage.constraints, values, violations, strict=True)
    )
    weighted = [c.weight * v for c, v in zip(stage.constraints, violations, strict=True)]
    over_time = np.sum(weighted, axis=0) if weighted else np.zeros(last + 1)
    cost = sum(term.cost for term in terms) + (0.0 if completed else unreached_cost)
    if not np.isfinite(cost):
        raise ScoringError("not_finite", f"the cost of stage {stage.name!r} is not a finite number")
    kinds = {kind: sum(t.cost for t in terms if t.kind == kind) for kind in ("path", "sub_goal", "collision")}
    return StageScore(stage.name, begin, end, completed, cost, kinds, terms, tuple(over_time.tolist()))


def _values(constraint: Constraint, context: Context) -> np.ndarray:
    values = constraint.expression.values(context)
    return (~values if constraint.expression.kind == BOOLEAN else values).astype(np.float64)


def _constraint_score(
    constraint: Constraint, values: np.ndarray, violations: np.ndarray, begin: int | None, end: int
) -> ConstraintScore:
    """Reduce over the stage: path by the mean, collision by the maximum, sub-goal by the last frame.

    A stage that never began has no frames: its sub-goals are taken at the last frame, the rest is 0.
    """
    if begin is None and constraint.kind != "sub_goal":
        value, violation = 0.0, 0.0
    elif constraint.kind == "sub_goal":
        value, violation = values[end], violations[end]
    else:
        reduce = np.mean if constraint.kind == "path" else np.max
        value, violation = reduce(values[begin : end + 1]), reduce(violations[begin : end + 1])
    cost = constraint.weight * float(violation)
    text, unit = constraint.expression.text, constraint.unit
    is_condition = constraint.expression.kind == BOOLEAN
    return ConstraintScore(
        constraint.kind, text, unit, is_condition, constraint.threshold, float(value), cost
    )
