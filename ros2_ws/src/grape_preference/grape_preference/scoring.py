"""Score one episode: external reward (GRAPE eq. 8), self reward (eq. 10), success, or a verdict why not.

What is not scorable says so: ``Score.verdict`` is then not "ok" and the rewards are None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from grape_episodes.types import Episode

from grape_preference.constraints import StagePlan, plan_for_task
from grape_preference.judge import JUDGES, KEYPOINTS, RECORDED, VisualJudge, judge, recorded
from grape_preference.objectives import DEFAULT_OBJECTIVE, apply_objective
from grape_preference.stage_scoring import (
    ConstraintScore,
    ScoringError,
    StageScore,
    external_reward,
    score_stages,
)
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


@dataclass(frozen=True)
class Score:
    """The terms of an episode's reward; the rewards are None unless ``verdict`` is "ok".

    r_self: sum of log-probabilities over steps and tokens; r_self_mean: the mean per token.
    r_ext: product of exp(-C_i), in (0, 1]. i_success: 1.0 or 0.0 by the judge called ``judge``, who says why
    in ``judge_message``. objective: see ``objectives.OBJECTIVES``. start: where each keypoint was at the
    first frame, metres, base frame. temperature: that the rollout was sampled at; None: not known.
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
    judge: str = ""
    judge_message: str = ""
    objective: str = DEFAULT_OBJECTIVE
    start: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    temperature: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``scores.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Score:
        """Read back what ``to_json`` gave; further keys are ignored, missing ones raise KeyError."""
        fields = {name: row[name] for name in cls.__dataclass_fields__ if name in row or name not in _LATER}
        fields["stages"] = tuple(_stage_from_json(stage) for stage in row["stages"])
        fields["start"] = {name: tuple(place) for name, place in row.get("start", {}).items()}
        return cls(**fields)


# Not in the first version of scores.json.
_LATER = {"judge", "judge_message", "objective", "start", "temperature"}


def score_episode(
    episode: Episode,
    tracks: KeypointTracks | None,
    plan: StagePlan | None = None,
    *,
    objective: str = DEFAULT_OBJECTIVE,
    judged_by: str = KEYPOINTS,
    visual: VisualJudge | None = None,
) -> Score:
    """Score ``episode`` with ``plan`` (default: the shipped one of its task); bad data gives a verdict.

    Args:
        episode: what was recorded.
        tracks: its keypoints; None means that it has no depth images to take them from.
        plan: its stages.
        objective: which of ``objectives.OBJECTIVES`` the stage costs serve.
        judged_by: who says whether it succeeded, one of ``judge.JUDGES``.
        visual: asked for a second opinion by the judge "keypoints".

    Raises:
        ValueError: unknown objective or judge.
    """
    if judged_by not in JUDGES:
        raise ValueError(f"unknown judge {judged_by!r}; choose one of {', '.join(JUDGES)}")
    try:
        plan = apply_objective(plan or _plan(episode.manifest.task), objective)
        r_self = self_reward(episode)
        usable = _usable(episode, tracks, plan)
        stages = score_stages(plan, usable)
    except ScoringError as error:
        return replace(refused_score(episode, error, plan), objective=objective)
    verdict = recorded(episode) if judged_by == RECORDED else judge(episode, usable, plan, visual)
    return replace(
        _score(episode, "ok", "", plan.sha256),
        r_self=r_self[0],
        r_self_mean=r_self[1],
        r_ext=external_reward(stages),
        i_success=float(verdict.success),
        stages=stages,
        judge=verdict.judge,
        judge_message=verdict.message,
        objective=objective,
        start={name: _place(usable, name) for name in plan.keypoints},
    )


def refused_score(episode: Episode, error: ScoringError, plan: StagePlan | None = None) -> Score:
    """Return the score of an episode that has none: what its manifest says, and the verdict."""
    return _score(episode, error.verdict, str(error), plan.sha256 if plan else "")


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


def _place(tracks: KeypointTracks, name: str) -> tuple[float, float, float]:
    x, y, z = tracks.positions[0, tracks.index(name)].tolist()
    return x, y, z


def _score(episode: Episode, verdict: str, message: str, plan_sha256: str) -> Score:
    """Return what the manifest says, with no rewards yet."""
    manifest = episode.manifest
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
        r_self=None,
        r_self_mean=None,
        r_ext=None,
        i_success=None,
        stages=(),
        plan_sha256=plan_sha256,
        episode_sha256=episode_hash(manifest.files),
        temperature=manifest.temperature,
    )


def unreadable_score(episode_id: str, message: str) -> Score:
    """Return the score of an episode that cannot be read: nothing but the verdict."""
    blank: dict[str, Any] = dict.fromkeys(Score.__dataclass_fields__, "")
    blank.update(dict.fromkeys(("r_self", "r_self_mean", "r_ext", "i_success", "temperature")))
    blank.update(steps=0, collisions=0, stages=(), episode_id=episode_id, start={})
    return Score(**{**blank, "verdict": "unreadable", "message": message})


def _stage_from_json(row: dict[str, Any]) -> StageScore:
    terms = tuple(ConstraintScore(**term) for term in row["constraints"])
    return StageScore(**{**row, "constraints": terms, "cost_over_time": tuple(row["cost_over_time"])})


def episode_hash(files: dict[str, str]) -> str:
    """Return the sha256 of the episode's data file as recorded in its manifest ("" when it has none)."""
    data = [digest for name, digest in sorted(files.items()) if name.endswith(".mcap")]
    return data[0] if data else ""
