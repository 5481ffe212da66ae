"""Whether a recorded episode is kept, or odd and set aside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grape_episodes.reader import read_episode
from grape_episodes.stop_reasons import OF_THE_POLICY, StopReason
from grape_episodes.types import Episode, EpisodeError

from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.task_list import TaskList


@dataclass(frozen=True)
class Finding:
    """An episode that was looked at: why it is odd (empty: it is kept) and its verdict.

    ``image``: (H, W, 3) uint8 RGB, the last one; None when the episode cannot be read.
    """

    odd: StopReason
    message: str
    success: bool = False
    steps: int = 0
    stop_reason: str = ""
    image: np.ndarray | None = None


def inspect(folder: Path, rollout: Rollout, policy_version: str, wanted: TaskList) -> Finding:
    """Read the whole episode and compare it with what was asked for."""
    try:
        episode = read_episode(folder)
    except EpisodeError as error:
        return Finding(StopReason.INVALID, str(error))
    odd, message = _oddity(episode, rollout, policy_version, wanted)
    manifest = episode.manifest
    success = manifest.success if wanted.judge == "recorded" else _judged_by_keypoints(episode)
    last = episode.images[-1]
    return Finding(odd, message or manifest.reason, success, episode.steps, manifest.stop_reason, last)


def _oddity(
    episode: Episode, rollout: Rollout, policy_version: str, wanted: TaskList
) -> tuple[StopReason, str]:
    manifest = episode.manifest
    if manifest.outcome in ("aborted", "stopped"):
        reason = StopReason(manifest.stop_reason or "CUT_OFF")
        if manifest.outcome == "aborted" or reason not in OF_THE_POLICY:
            return reason, manifest.reason
    difference = _difference(episode, rollout, policy_version, wanted)
    if difference:
        return StopReason.INCONSISTENT, difference
    if episode.steps < wanted.min_steps and not manifest.success and not manifest.stop_reason:
        return StopReason.TOO_SHORT, f"{episode.steps} steps, at least {wanted.min_steps} are expected"
    return StopReason.NONE, ""


def _difference(episode: Episode, rollout: Rollout, policy_version: str, wanted: TaskList) -> str:
    """Return what about the episode is not as asked for; empty when all is."""
    manifest, task = episode.manifest, wanted.find(rollout.task)
    if Rollout(manifest.task, manifest.initial_state_id, manifest.seed) != rollout:
        return f"it is of {manifest.initial_state_id}, seed {manifest.seed}"
    if set(episode.policy_versions) - {policy_version} or manifest.policy_version != policy_version:
        return f"{', '.join(sorted(set(episode.policy_versions)))} acted instead of {policy_version}"
    if task.forward and manifest.instruction != task.forward:
        return f"its instruction was {manifest.instruction!r}"
    if abs(manifest.temperature - wanted.temperature) > 1e-6:
        return f"its temperature was {manifest.temperature:g}"
    return f"it has {episode.steps} steps" if episode.steps > wanted.max_steps else ""


def _judged_by_keypoints(episode: Episode) -> bool:
    """Return the verdict of the task's success condition on perceived keypoints; no stages: no success."""
    from grape_preference.constraints import ConstraintError, plan_for_task
    from grape_preference.judge import judge
    from grape_preference.keypoints import track
    from grape_preference.stage_scoring import ScoringError

    try:
        plan, tracks = plan_for_task(episode.manifest.task), track(episode)
    except (ConstraintError, ScoringError):
        return False
    return tracks is not None and judge(episode, tracks, plan).success
