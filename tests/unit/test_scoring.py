"""Scores against numbers computed by hand, and verdicts for what has no score."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from episode_factory import make_episode
from grape_episodes.types import Episode
from grape_preference.constraints import StagePlan, plan_from_document
from grape_preference.explain import explain
from grape_preference.rewards import gcpg
from grape_preference.scoring import Score, score_episode, self_reward
from grape_preference.stage_scoring import ScoringError, external_reward, score_stages
from preference_factory import make_score, make_tracks


def plan(*stages: dict[str, Any], unreached_cost: float = 1.0) -> StagePlan:
    document = {
        "version": 1,
        "task": "carrot_on_plate",
        "keypoints": ["carrot", "plate"],
        "unreached_cost": unreached_cost,
        "stages": list(stages),
    }
    return plan_from_document(document, "test")


def constraint(
    kind: str, expression: str, weight: float, threshold: float, unit: str = "m"
) -> dict[str, Any]:
    return {"kind": kind, "expression": expression, "weight": weight, "threshold": threshold, "unit": unit}


REACH = {
    "name": "reach",
    "end": "height(end_effector) < 0.15",
    "constraints": [
        constraint("path", "height(end_effector)", 2.0, 0.1),
        constraint("sub_goal", "distance(end_effector, carrot)", 10.0, 0.05),
        constraint("collision", "displacement(carrot)", 5.0, 0.01),
    ],
}
CLOSE = {
    "name": "close",
    "end": "gripper < 0.5",
    "constraints": [constraint("sub_goal", "gripper < 0.5", 0.7, 0.0, "1")],
}
HAND = [[0.3, 0, 0.30], [0.3, 0, 0.20], [0.3, 0, 0.10], [0.3, 0, 0.10], [0.3, 0, 0.10]]
CARROT = [[0.3, 0, 0.01], [0.3, 0.03, 0.01], [0.3, 0, 0.01], [0.3, 0, 0.01], [0.3, 0.5, 0.01]]
GRIPPER = np.array([1.0, 1.0, 1.0, 1.0, 0.2])
TRACKS = make_tracks(HAND, {"carrot": CARROT, "plate": [0, 0, 0]}, gripper=GRIPPER)


def test_costs_by_hand() -> None:
    reach, close = score_stages(plan(REACH, CLOSE), TRACKS)
    assert (reach.begin, reach.end, reach.completed) == (0, 2, True)
    assert (close.begin, close.end, close.completed) == (2, 4, True)
    assert reach.kinds["path"] == pytest.approx(2.0 * (0.2 + 0.1 + 0.0) / 3)  # mean over the stage
    assert reach.kinds["sub_goal"] == pytest.approx(10.0 * (0.09 - 0.05))  # its last frame
    assert reach.kinds["collision"] == pytest.approx(5.0 * (0.03 - 0.01))  # its worst frame
    assert reach.cost == pytest.approx(0.2 + 0.4 + 0.1)
    assert close.cost == 0.0
    assert external_reward((reach, close)) == pytest.approx(math.exp(-0.7))
    assert reach.cost_over_time[0] == pytest.approx(2.0 * 0.2 + 10.0 * (0.29 - 0.05))
    assert len(reach.cost_over_time) == 5


def test_a_stage_never_begun_costs_its_sub_goals_at_the_last_frame() -> None:
    never = {**REACH, "end": "height(end_effector) < 0.05"}
    tracks = dataclasses.replace(TRACKS, gripper=np.ones(5))
    reach, close = score_stages(plan(never, CLOSE, unreached_cost=1.5), tracks)
    assert (reach.begin, reach.end, reach.completed) == (0, 4, False)
    assert (close.begin, close.end, close.completed) == (None, None, False)
    last = math.hypot(0.5, 0.09)
    assert reach.cost == pytest.approx(1.5 + 2.0 * 0.3 / 5 + 10.0 * (last - 0.05) + 5.0 * 0.49)
    assert close.cost == pytest.approx(1.5 + 0.7)
    assert close.kinds == {"path": 0.0, "sub_goal": pytest.approx(0.7), "collision": 0.0}


def test_start_condition_delays_a_stage() -> None:
    late = {**CLOSE, "start": "time >= 0.6"}
    reach, close = score_stages(plan(REACH, late), TRACKS)
    assert (close.begin, close.end) == (3, 4)
    never = {**CLOSE, "start": "time > 99"}
    assert score_stages(plan(REACH, never), TRACKS)[1].begin is None
    assert reach.completed


def test_the_last_stage_must_still_be_done_at_the_end() -> None:
    reopened = dataclasses.replace(TRACKS, gripper=np.array([1.0, 1.0, 0.2, 0.2, 1.0]))
    assert not score_stages(plan(REACH, CLOSE), reopened)[1].completed
    kept = dataclasses.replace(TRACKS, gripper=np.array([1.0, 1.0, 1.0, 0.2, 0.2]))
    assert score_stages(plan(REACH, CLOSE), kept)[1].end == 3


def test_infinite_cost_is_refused() -> None:
    infinite = {**REACH, "constraints": [constraint("collision", "height(end_effector) / 0", 1.0, 0.0)]}
    with pytest.raises(ScoringError, match="not a finite number") as caught:
        score_stages(plan(infinite), TRACKS)
    assert caught.value.verdict == "not_finite"


def episode(**changes: Any) -> Episode:
    made = make_episode(4)
    fields = {"steps": 4, "files": {"x_0.mcap": "ab" * 32}, **changes.pop("manifest", {})}
    return dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, **fields), **changes)


def score(tracks=TRACKS, **changes: Any) -> Score:
    return score_episode(episode(**changes), tracks, plan(REACH, CLOSE))


def test_a_good_episode_has_all_terms() -> None:
    made, result = episode(), score()
    assert result.verdict == "ok"
    assert result.r_ext == pytest.approx(math.exp(-0.7))
    assert result.r_self == pytest.approx(made.log_probabilities.astype(float).sum())
    assert result.r_self_mean == pytest.approx(made.log_probabilities.astype(float).mean())
    assert result.i_success == 1.0
    assert result.episode_sha256 == "ab" * 32
    assert Score.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_self_reward_uses_the_recorded_numbers() -> None:
    logs = np.full((4, 7), -0.5, np.float32)
    assert self_reward(episode(log_probabilities=logs)) == (pytest.approx(-14.0), pytest.approx(-0.5))


def bad_logs(value: float) -> np.ndarray:
    logs = np.full((4, 7), -0.5, np.float32)
    logs[2, 3] = value
    return logs


def without(frames: int) -> Any:
    positions = TRACKS.positions.copy()
    positions[:frames, 1] = np.nan
    return dataclasses.replace(TRACKS, positions=positions)


def hidden(frames: int) -> Any:
    confidence = TRACKS.confidence.copy()
    confidence[:frames, 0] = 0.0
    return dataclasses.replace(TRACKS, confidence=confidence)


@pytest.mark.parametrize(
    ("tracks", "changes", "verdict", "message"),
    [
        (None, {}, "no_depth", "no depth images"),
        (TRACKS, {"log_probabilities": bad_logs(np.nan)}, "not_finite", "step 2"),
        (TRACKS, {"log_probabilities": bad_logs(-np.inf)}, "not_finite", "step 2"),
        (TRACKS, {"log_probabilities": bad_logs(0.5)}, "not_finite", "step 2"),
        (TRACKS, {"manifest": {"outcome": "aborted", "reason": "cancelled"}}, "truncated", "cancelled"),
        (TRACKS, {"manifest": {"steps": 9}}, "truncated", "9 steps but 4"),
        (without(1), {}, "missing_keypoints", "plate was not found"),
        (without(5), {}, "missing_keypoints", "plate was not found"),
        (hidden(3), {}, "lost_keypoints", "carrot was seen in only 40%"),
        (make_tracks(HAND[:3], {"carrot": CARROT[:3], "plate": [0, 0, 0]}), {}, "truncated", "3 tracked"),
        (make_tracks(HAND, {"carrot": CARROT}), {}, "missing_keypoints", "plate"),
        (
            make_tracks(np.full((5, 3), np.nan), {"carrot": CARROT, "plate": [0, 0, 0]}),
            {},
            "not_finite",
            "reach",
        ),
    ],
)
def test_no_score_without_a_stated_verdict(tracks: Any, changes: Any, verdict: str, message: str) -> None:
    result = score(tracks, **changes)
    assert result.verdict == verdict
    assert message in result.message
    assert (result.r_self, result.r_self_mean, result.r_ext, result.i_success) == (None, None, None, None)
    assert gcpg([result]) == [None]
    assert verdict in explain(result)


def test_unknown_task_has_a_verdict() -> None:
    result = score_episode(episode(manifest={"task": "fold_laundry"}), TRACKS)
    assert result.verdict == "no_stages"


GROUP = [
    make_score("a", -0.2, 0.8, True),
    make_score("b", -0.4, 0.4, False),
    make_score("c", -0.3, 0.6, False),
]


def test_raw_presets_by_hand() -> None:
    assert gcpg(GROUP, "paper") == pytest.approx(
        [0.01 * -2 + 0.01 * 0.8 + 2, 0.01 * -4 + 0.01 * 0.4, 0.01 * -3 + 0.01 * 0.6]
    )
    assert gcpg(GROUP, "paper-code") == pytest.approx([0.01 * -2 + 0.8 + 5, 0.01 * -4 + 0.4, 0.01 * -3 + 0.6])


def test_balanced_preset_by_hand() -> None:
    z = math.sqrt(1.5)  # of three equally spaced values
    assert gcpg(GROUP) == pytest.approx([z + z + math.sqrt(2), -z - z - 1 / math.sqrt(2), -1 / math.sqrt(2)])
    assert gcpg(GROUP[:1]) == [0.0]
    same = [make_score(name, -0.2, 0.5 + 1e-12 * i, True) for i, name in enumerate("ab")]
    assert gcpg(same) == [0.0, 0.0]  # rounding is no preference


def test_rewards_refuse_other_groups_and_presets() -> None:
    other = make_score("d", -0.2, 0.5, True, initial_state_id="carrot_on_plate/train/0002")
    with pytest.raises(ValueError, match="2 groups cannot be compared"):
        gcpg([*GROUP, other])
    with pytest.raises(ValueError, match="choose one of balanced, paper, paper-code"):
        gcpg(GROUP, "mine")


def test_explanation_names_the_stage_and_the_reason() -> None:
    text = explain(score())
    assert "1. reach: completed, frames 0 to 2, cost 0.700." in text
    assert (
        "sub_goal: distance(end_effector, carrot) was 0.090 m at its end, over the threshold 0.05 m" in text
    )
    assert "2. close: completed, frames 2 to 4, cost 0.000." in text


def test_explanation_of_conditions_and_averages() -> None:
    held = {**CLOSE, "constraints": [constraint("path", "gripper < 0.5", 1.0, 0.0, "1")]}
    high = {**REACH, "constraints": [constraint("path", "height(end_effector)", 1.0, 0.25)]}
    text = explain(score_episode(episode(), TRACKS, plan(high, held)))
    assert "gripper < 0.5 was false in 67% of the frames: cost 0.667" in text
    assert (
        "height(end_effector) was 0.200 m on average, at times over the threshold 0.25 m: cost 0.017" in text
    )
