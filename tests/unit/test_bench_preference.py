"""The benchmarks' own arithmetic: what is counted, on cases small enough to count by hand."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from episode_factory import make_episode
from grape_preference.constraints import plan_for_task
from grape_preference.stage_scoring import StageScore
from grape_training import cli
from grape_training.bench_judge import confusion_cell
from grape_training.bench_keypoints import measure_keypoints
from grape_training.bench_obstacle import collision_quality
from grape_training.bench_rollouts import Wanted
from grape_training.bench_scoring import Case, ablation, area_under_curve, expert_rank, quality
from grape_training.bench_speed import growth, speedups
from grape_training.truth import Rollout
from preference_factory import make_score, make_tracks

STATE = "carrot_on_plate/eval/0000"


def case(r_self: float, r_ext: float, judged: bool, success: bool, rank: float = 0.0) -> Case:
    score = make_score("e", r_self, r_ext, judged, initial_state_id=STATE)
    return Case(Wanted("in_domain", STATE, "policy"), score, success, (float(success), rank))


def test_area_under_curve_counts_ties_half() -> None:
    cases = [case(0, 0.9, True, True), case(0, 0.5, True, True), case(0, 0.5, False, False)]
    assert area_under_curve(cases, lambda c: c.score.r_ext or 0) == pytest.approx(0.75)
    assert area_under_curve(cases[:2], lambda c: c.score.r_ext or 0) is None


def test_ablation_by_hand() -> None:
    """R_self misleads here, R_ext and the judge do not; without both of these the order is wrong."""
    found = ablation(
        [case(-0.9, 0.9, True, True), case(-0.5, 0.2, False, False, 1.0), case(-0.1, 0.1, False, False)]
    )
    assert found["without_r_self"] == {
        "success": 1.0,
        "expert": 1.0,
        "success_pairs": 2,
        "expert_pairs": 3,
    }
    assert found["all"]["success"] == 1.0
    assert found["without_i_success"]["success"] < 1.0  # type: ignore[operator]


def test_quality_uses_the_truth_and_not_the_judge() -> None:
    cases = [case(-0.1, 0.9, False, True), case(-0.1, 0.1, True, False)]
    found = quality([*cases, dataclasses.replace(cases[0], score=make_score("x", 0, 0, True, verdict="no"))])
    assert found["auc"] == {"carrot_on_plate": 1.0}
    assert (found["episodes"], found["verdicts_not_ok"], found["successes"]) == (3, 1, 2)


@pytest.mark.parametrize(
    ("judged", "truth", "cell"),
    [
        (1.0, True, "true_positive"),
        (1.0, False, "false_positive"),
        (0.0, True, "false_negative"),
        (0.0, False, "true_negative"),
        (None, True, "undecided"),
    ],
)
def test_confusion(judged: float | None, truth: bool, cell: str) -> None:
    score = dataclasses.replace(make_score("e", 0, 1, True), i_success=judged)
    assert confusion_cell(score, truth) == cell


def collided(cost: float, collision: bool, r_ext: float, success: bool) -> Case:
    stage = StageScore("s", 0, 1, True, cost, {"path": 9.0, "sub_goal": 9.0, "collision": cost / 2}, (), ())
    score = make_score("e", -0.1, r_ext, success, initial_state_id=STATE, stages=(stage, stage))
    return Case(Wanted("obstacle", STATE, "policy"), score, not collision, (float(success),))


def test_collisions_are_told_by_their_cost_alone() -> None:
    """Two without collision, two with one; one of the four pairs is the wrong way round."""
    cases = [
        collided(0.0, False, 0.9, True),
        collided(0.5, False, 0.1, False),
        collided(0.4, True, 0.5, True),
        collided(1.0, True, 0.95, False),
    ]
    found = collision_quality(cases)
    assert found == {"auc": 0.75, "auc_policy_only": 0.75, "clean_success_first": 0.5}
    assert collision_quality(cases[:2])["auc"] is None


def rollout(success: bool, gap: float, **manifest) -> Rollout:
    episode = make_episode(2, success=success, outcome="success" if success else "failure", **manifest)
    plate = np.zeros((3, 3))
    return Rollout(episode, {"carrot": np.add(plate, [gap, 0, 0]), "plate": plate})


def test_the_expert_ranks_success_then_grasp_then_distance() -> None:
    ranks = [
        expert_rank(rollout(True, 0.01)),
        expert_rank(rollout(False, 0.02, grasped=True)),
        expert_rank(rollout(False, 0.2, grasped=True)),
        expert_rank(rollout(False, 0.01, grasped=False)),
    ]
    assert ranks == sorted(ranks, reverse=True)


def test_keypoints_that_are_not_found_count_as_untracked() -> None:
    """The images are noise: nothing is found, and no error is claimed."""
    found = measure_keypoints([(Wanted("in_domain", STATE, "expert"), rollout(True, 0.0))])
    assert (found["episodes"], found["median_error_m"], found["tracked_share"]) == (1, None, 0.0)
    assert found["suites"]["in_domain"]["not_found"] == 6


def reach(frames: int = 41):
    hand = np.linspace([0.2, 0.0, 0.3], [0.3, 0.0, 0.02], frames)
    return make_tracks(hand, {"carrot": [0.3, 0.0, 0.012], "plate": [0.3, 0.2, 0.0]})


def test_all_frames_at_once_are_fifty_times_faster_and_equal() -> None:
    """``speedups`` itself checks that both give the same values."""
    found = speedups([(plan_for_task("carrot_on_plate"), reach(51))])
    assert found["speedup_vs_python_loop"] > 50
    assert found["speedup_vs_sharing_loop"] > 25


def test_growth_is_measured_over_replicated_episodes() -> None:
    made = make_episode(40)
    episode = dataclasses.replace(
        made, manifest=dataclasses.replace(made.manifest, steps=40), images=made.images[:0], depths=None
    )
    found = growth([(episode, reach())], [20, 60, 180])
    assert 0.7 < found["growth_exponent"] < 1.3
    assert found["growth"]["episodes"] == [20, 60, 180]


@pytest.mark.slow
def test_keypoints_of_a_suite_from_the_command_line(monkeypatch, capsys, tmp_path) -> None:
    """Other tables, light, camera and things: made once in a worker, tracked, compared with the truth."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--states", "0", "--suites", "unseen_visual", "--episodes", "2", "--workers", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["grape", "bench", "keypoints", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output, errors = capsys.readouterr()
    assert not end.value.code, errors
    found = json.loads(output)
    assert (found["episodes"], found["refused"], found["not_found"]) == (8, 0, 0)
    assert found["median_error_m"] <= 0.015
    assert found["tracked_share"] >= 0.9
    assert found["suites"]["unseen_visual"]["median_error_m"] == found["median_error_m"]
