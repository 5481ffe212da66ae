"""Score one episode: stages over time, stage costs, external reward (GRAPE eq. 8), self reward (eq. 10).

What is not scorable says so: ``Score.verdict`` is then not "ok" and the rewards are None.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from grape_episodes.types import Episode

from grape_preference.constraints import Constraint, Stage, StagePlan, plan_for_task
from grape_preference.language_functions import BOOLEAN, Context
from grape_preference.tracks import KeypointTracks

MIN_TRACKED_SHARE = 0.5  # of frames with positive confidence, for each keypoint that the stages read
VERDICTS = (
    "ok",
    "truncated",
    "no_depth",
    "missing_keypoints",
    "lost_keypoints",
    "not_finite",
    "no_stages",
    "unreadable",
)


class ScoringError(ValueError):
    """An episode has no score; ``verdict`` is one of VERDICTS."""

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


@dataclass(frozen=True)
class ConstraintScore:
    """One constraint over its stage: the reduced raw value (in ``unit``) and the cost it adds."""

    kind: str
    expression: str
    unit: str
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


@dataclass(frozen=True)
class Score:
    """The terms of an episode's reward; the rewards are None unless ``verdict`` is "ok".

    r_self: sum of log-probabilities over steps and tokens; r_self_mean: the mean per token.
    r_ext: product of exp(-C_i), in (0, 1]. i_success: 1.0 or 0.0 by the judge's verdict in the manifest.
    """

    episode_id: str
    task: str
    initial_state_id: str
    policy_version: str
    outcome: str
    verdict: str
    message: str
    steps: int
    collisions: int
    r_self: float | None
    r_self_mean: float | None
    r_ext: float | None
    i_success: float | None
    stages: tuple[StageScore, ...]
    plan_sha256: str
    episode_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``scores.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Score:
        """Read back what ``to_json`` gave; further keys are ignored, missing ones raise KeyError."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "stages": tuple(_stage_from_json(stage) for stage in row["stages"])})


def score_episode(episode: Episode, tracks: KeypointTracks | None, plan: StagePlan | None = None) -> Score:
    """Score ``episode`` with ``plan`` (default: the shipped one of its task); bad data gives a verdict.

    ``tracks`` None means that the episode has no depth images to take keypoints from.
    """
    try:
        plan = plan or _plan(episode.manifest.task)
        r_self = self_reward(episode)
        stages = score_stages(plan, _usable(episode, tracks, plan))
    except ScoringError as error:
        return _score(episode, error.verdict, str(error), plan.sha256 if plan else "")
    return _score(episode, "ok", "", plan.sha256, r_self, stages)


def self_reward(episode: Episode) -> tuple[float, float]:
    """Return (sum, mean per token) of the recorded log-probabilities (eq. 10); raise ScoringError."""
    if episode.steps == 0 or episode.manifest.outcome == "aborted":
        reason = episode.manifest.reason or "no reason recorded"
        raise ScoringError("truncated", f"the episode ended early after {episode.steps} steps: {reason}")
    if episode.manifest.steps != episode.steps:
        message = f"the manifest says {episode.manifest.steps} steps but {episode.steps} are recorded"
        raise ScoringError("truncated", message)
    values = episode.log_probabilities.astype(np.float64)
    bad = ~np.isfinite(values) | (values > 1e-3)
    if bad.any():
        step = int(np.flatnonzero(bad.any(axis=1))[0])
        raise ScoringError("not_finite", f"step {step} has a log-probability that is not a number at most 0")
    return float(values.sum()), float(values.mean())


def score_stages(plan: StagePlan, tracks: KeypointTracks) -> tuple[StageScore, ...]:
    """Cut the episode into the plan's stages and return their costs; raise ScoringError if not finite."""
    context = Context(tracks)
    scores: list[StageScore] = []
    begin: int | None = 0
    for stage in plan.stages:
        begin, end, completed = _span(stage, context, begin)
        scores.append(_score_stage(stage, context, begin, end, completed, plan.unreached_cost))
        begin = end if completed else None
    return tuple(scores)


def external_reward(stages: Sequence[StageScore]) -> float:
    """Return R_ext = product of exp(-C_i), in (0, 1] (eq. 8)."""
    return max(math.exp(-sum(stage.cost for stage in stages)), sys.float_info.min)


def _plan(task: str) -> StagePlan:
    try:
        return plan_for_task(task)
    except ValueError as error:
        raise ScoringError("no_stages", str(error)) from None


def _usable(episode: Episode, tracks: KeypointTracks | None, plan: StagePlan) -> KeypointTracks:
    if tracks is None:
        raise ScoringError("no_depth", "no depth images were recorded, so there are no keypoints")
    if len(tracks) != episode.steps + 1:
        raise ScoringError("truncated", f"{len(tracks)} tracked frames for {episode.steps} steps")
    for name in plan.keypoints:
        row = tracks.index(name) if name in tracks.names else None
        if row is None or not np.isfinite(tracks.positions[:, row]).all():
            raise ScoringError("missing_keypoints", f"{name} was not found in the images")
        share = float((tracks.confidence[:, row] > 0).mean())
        if share < MIN_TRACKED_SHARE:
            raise ScoringError("lost_keypoints", f"{name} was seen in only {share:.0%} of the frames")
    return tracks


def _span(stage: Stage, context: Context, earliest: int | None) -> tuple[int | None, int | None, bool]:
    """Return (begin, end, completed): the stage's frames, both inclusive; an open stage ends at the last."""
    if earliest is None:
        return None, None, False
    context.stage_start = earliest
    begin = earliest if stage.start is None else _first(stage.start.evaluate(context), earliest)
    if begin is None:
        return None, None, False
    context.stage_start = begin
    end = _first(stage.end.evaluate(context), begin)
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
    values = constraint.expression.evaluate(context)
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
    return ConstraintScore(constraint.kind, text, unit, constraint.threshold, float(value), cost)


def _score(
    episode: Episode,
    verdict: str,
    message: str,
    plan_sha256: str,
    r_self: tuple[float, float] | None = None,
    stages: tuple[StageScore, ...] = (),
) -> Score:
    manifest, ok = episode.manifest, verdict == "ok"
    return Score(
        episode_id=manifest.episode_id,
        task=manifest.task,
        initial_state_id=manifest.initial_state_id,
        policy_version=manifest.policy_version,
        outcome=manifest.outcome,
        verdict=verdict,
        message=message,
        steps=episode.steps,
        collisions=manifest.collisions,
        r_self=r_self[0] if r_self else None,
        r_self_mean=r_self[1] if r_self else None,
        r_ext=external_reward(stages) if ok else None,
        i_success=float(manifest.success) if ok else None,
        stages=stages,
        plan_sha256=plan_sha256,
        episode_sha256=episode_hash(manifest.files),
    )


def unreadable_score(episode_id: str, message: str) -> Score:
    """Return the score of an episode that cannot be read: nothing but the verdict."""
    blank: dict[str, Any] = dict.fromkeys(Score.__dataclass_fields__, "")
    blank.update(dict.fromkeys(("r_self", "r_self_mean", "r_ext", "i_success")))
    blank.update(steps=0, collisions=0, stages=(), episode_id=episode_id)
    return Score(**{**blank, "verdict": "unreadable", "message": message})


def _stage_from_json(row: dict[str, Any]) -> StageScore:
    terms = tuple(ConstraintScore(**term) for term in row["constraints"])
    return StageScore(**{**row, "constraints": terms, "cost_over_time": tuple(row["cost_over_time"])})


def episode_hash(files: dict[str, str]) -> str:
    """Return the sha256 of the episode's data file as recorded in its manifest ("" when it has none)."""
    data = [digest for name, digest in sorted(files.items()) if name.endswith(".mcap")]
    return data[0] if data else ""
