"""Success without privileged state, which judge said it, and what a second opinion changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from episode_factory import make_episode
from grape_episodes.types import Episode
from grape_preference.constraints import ConstraintError, plan_for_task, plan_from_document
from grape_preference.judge import judge, recorded
from grape_preference.scoring import score_episode
from preference_factory import make_tracks

PLATE = {"plate": (0.11, 0.11, 0.012), "carrot": (0.1, 0.03, 0.025)}
PLAN = plan_for_task("carrot_on_plate")


def tracks(carrot: Any, gripper: float, hand: Any = (0.3, 0.0, 0.15), frames: int = 5):
    hand = np.tile(hand, (frames, 1))
    return make_tracks(
        hand, {"carrot": carrot, "plate": [0.3, 0.1, 0.006]}, PLATE, gripper=np.full(frames, gripper)
    )


def episode(success: bool = False) -> Episode:
    made = make_episode(4)
    changes = {"steps": 4, "success": success, "reason": "the simulator said so"}
    return dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, **changes))


ON_PLATE, BESIDE = [0.3, 0.11, 0.024], [0.3, 0.3, 0.012]


@pytest.mark.parametrize(
    ("carrot", "gripper", "success"),
    [(ON_PLATE, 1.0, True), (ON_PLATE, 0.3, True), (BESIDE, 1.0, False), ([0.3, 0.11, 0.1], 1.0, False)],
)
def test_the_last_stage_decides(carrot: list[float], gripper: float, success: bool) -> None:
    found = judge(episode(), tracks(carrot, gripper), PLAN)
    assert found.success is success
    assert found.judge == "keypoints"
    assert found.message.endswith(f"is {str(success).lower()} at the last frame")


def test_what_is_still_held_is_no_success() -> None:
    """A closed gripper matters only where it can hold the object."""
    at_it = [0.3, 0.11, 0.04]
    assert not judge(episode(), tracks(ON_PLATE, 0.3, at_it), PLAN).success
    assert judge(episode(), tracks(ON_PLATE, 1.0, at_it), PLAN).success


def test_only_the_last_frame_counts() -> None:
    fell = np.array([ON_PLATE] * 4 + [BESIDE])
    assert not judge(episode(), tracks(fell, 1.0), PLAN).success
    assert judge(episode(), tracks(fell[::-1], 1.0), PLAN).success


@pytest.mark.parametrize(
    ("answer", "success", "name"),
    [(True, True, "keypoints+vlm"), (False, False, "keypoints+vlm"), (None, True, "keypoints")],
)
def test_a_second_opinion_by_pictures(answer: bool | None, success: bool, name: str) -> None:
    asked: list[Any] = []

    def look(instruction: str, images: Any) -> bool | None:
        asked.append((instruction, len(images), images[-1].shape))
        return answer

    found = judge(episode(), tracks(ON_PLATE, 1.0), PLAN, look)
    assert (found.success, found.judge) == (success, name)
    assert asked == [("put the carrot on the plate", 2, (240, 320, 3))]


def test_a_yes_to_the_pictures_does_not_make_a_success() -> None:
    assert not judge(episode(), tracks(BESIDE, 1.0), PLAN, lambda *_: True).success


def test_the_score_says_who_judged() -> None:
    """The recorded verdict, which in simulation is privileged, counts only where it is asked for."""
    flagged = episode(success=True)
    own = score_episode(flagged, tracks(BESIDE, 1.0))
    assert (own.i_success, own.judge) == (0.0, "keypoints")
    told = score_episode(flagged, tracks(BESIDE, 1.0), judged_by="recorded")
    assert (told.i_success, told.judge, told.judge_message) == (1.0, "recorded", "the simulator said so")
    assert recorded(flagged).success
    with pytest.raises(ValueError, match="unknown judge 'me'"):
        score_episode(flagged, tracks(BESIDE, 1.0), judged_by="me")


def test_what_has_no_score_has_no_judgement() -> None:
    refused = score_episode(dataclasses.replace(episode(), depths=None), None)
    assert (refused.i_success, refused.judge) == (None, "")


def test_a_stage_file_can_state_success_itself() -> None:
    stage = {"name": "reach", "end": "gripper < 0.5", "constraints": []}
    document = {"version": 1, "task": "t", "keypoints": ["carrot"], "unreached_cost": 1, "stages": [stage]}
    assert plan_from_document(document, "a").success.text == "gripper < 0.5"
    own = plan_from_document({**document, "success": "lift(carrot) > 0.1"}, "a")
    assert own.success.text == "lift(carrot) > 0.1"
    with pytest.raises(ConstraintError, match="a, success: a condition is needed"):
        plan_from_document({**document, "success": "lift(carrot)"}, "a")
