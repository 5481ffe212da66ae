"""Judge an episode without privileged state: the final stage's conditions on keypoints, optionally pictures.

In simulation the manifest carries the simulator's own verdict; on a real robot nobody knows it. So the
success term of the reward comes from here unless the recorded verdict is asked for, and the score says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from grape_episodes.types import Episode

from grape_preference.constraints import StagePlan
from grape_preference.expressions import Expression
from grape_preference.language_types import Context
from grape_preference.tracks import KeypointTracks

KEYPOINTS, RECORDED = "keypoints", "recorded"
JUDGES = {
    KEYPOINTS: "the task's success condition on perceived keypoints and gripper at the last frame",
    RECORDED: "what the manifest says; in simulation that is the simulator's privileged verdict",
}
LAST_IMAGES = 2  # shown to the one who judges by pictures


# Asked with the instruction and the last images, (H, W, 3) uint8 RGB: do they show it done? None: no answer.
VisualJudge = Callable[[str, Sequence[np.ndarray]], bool | None]


@dataclass(frozen=True)
class Judgement:
    """A verdict, which judge gave it, and why in words."""

    success: bool
    judge: str
    message: str


def judge(
    episode: Episode, tracks: KeypointTracks, plan: StagePlan, visual: VisualJudge | None = None
) -> Judgement:
    """Judge by the plan's success condition; with ``visual``, its yes is needed too.

    A visual judge without an answer leaves the verdict to the keypoints, and the message says so.
    ``tracks`` must have every keypoint of the plan (``scoring.score_episode`` checks that).
    """
    success = _holds_at_the_end(plan.success, tracks)
    message = f"{plan.success.text} is {'true' if success else 'false'} at the last frame"
    if visual is None:
        return Judgement(success, KEYPOINTS, message)
    answer = visual(episode.manifest.instruction, list(episode.images[-LAST_IMAGES:]))
    spoken = {True: "yes", False: "no", None: "no answer"}[answer]
    name = KEYPOINTS if answer is None else f"{KEYPOINTS}+vlm"
    return Judgement(success and answer is not False, name, f"{message}; asked for the pictures: {spoken}")


def recorded(episode: Episode) -> Judgement:
    """Return the verdict that the manifest carries."""
    manifest = episode.manifest
    return Judgement(manifest.success, RECORDED, manifest.reason or f"outcome {manifest.outcome}")


def _holds_at_the_end(condition: Expression, tracks: KeypointTracks) -> bool:
    return bool(condition.evaluate(Context(tracks))[-1])
