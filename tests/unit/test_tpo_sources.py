"""From one table of scored rollouts to what each method trains on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from grape_preference.folder import save_scores
from grape_preference.pairs import make_pairs, save_pairs
from grape_preference.rewards import rewards
from grape_preference.scoring import Score
from grape_preference.stage_scoring import StageScore
from grape_training.errors import BadInputError
from grape_training.tpo_options import TpoOptions
from grape_training.tpo_sources import groups, random_pairs, select, stage_weights, successes


def stage(name: str, begin: int | None, end: int | None, cost: float) -> StageScore:
    return StageScore(name, begin, end, begin is not None, cost, {"path": cost}, (), ())


def score(name: str, state: str, success: float, r_ext: float, **changes) -> Score:
    base = Score(
        episode_id=name,
        task="stack_cube",
        initial_state_id=f"stack_cube/collect/{state}",
        policy_version="v",
        outcome="failure",
        verdict="ok",
        message="",
        steps=6,
        collisions=0,
        r_self=-10.0,
        r_self_mean=-1.0,
        r_ext=r_ext,
        i_success=success,
        stages=(stage("reach", 0, 2, 0.0), stage("place", 2, 6, -math.log(r_ext))),
        plan_sha256="",
        episode_sha256="",
    )
    return replace(base, **changes)


SCORES = [
    score("a", "0000", 1.0, 0.9),
    score("b", "0000", 0.0, 0.5),
    score("c", "0000", 0.0, 0.2),
    score("d", "0000", 1.0, 0.8),
    score("e", "0001", 0.0, 0.4),
    score("f", "0001", 0.0, 0.6),
    replace(score("g", "0000", 0.0, 0.1), verdict="lost_keypoints", r_ext=None, i_success=None),
]


def test_random_pairs_are_successes_over_failures_of_one_state():
    found = random_pairs(SCORES, seed=0, most=9)
    pairs = {item.episodes for item in found}
    assert pairs == {("a", "b"), ("a", "c"), ("d", "b"), ("d", "c")}  # all there are
    assert all(item.preferences == ((0, 1, 1.0),) for item in found)
    assert [s.episodes for s in random_pairs(SCORES, 0, 9)] == [
        s.episodes for s in random_pairs(SCORES[::-1], 0, 9)
    ]
    orders = {tuple(item.episodes for item in random_pairs(SCORES, seed, 9)) for seed in range(8)}
    assert len(orders) > 1
    assert len(random_pairs(SCORES, 0, 1)) == 1


def test_groups_hold_every_rollout_and_weigh_by_difference_of_reward():
    first, second = groups(SCORES, "balanced")
    assert first.episodes == ("a", "b", "c", "d")
    values = rewards(SCORES[:4], "balanced")
    assert sum(p.weight for p in first.preferences) == pytest.approx(1.0)
    assert all(values[p.better] > values[p.worse] for p in first.preferences)
    best_worst = next(p for p in first.preferences if (p.better, p.worse) == (0, 2))
    ratio = (values[0] - values[2]) / (values[0] - values[1])
    next_one = next(p for p in first.preferences if (p.better, p.worse) == (0, 1))
    assert best_worst.weight / next_one.weight == pytest.approx(ratio)
    assert second.episodes == ("e", "f")
    assert [(p.better, p.worse) for p in second.preferences] == [(1, 0)]


def test_a_group_without_differences_is_left_out():
    same = [score(name, "0000", 0.0, 0.5) for name in "xy"]
    assert groups(same, "balanced") == []


def test_successes_are_what_the_judge_says_not_the_recorded_outcome():
    assert [item.episodes for item in successes(SCORES)] == [("a",), ("d",)]
    assert all(not item.preferences for item in successes(SCORES))


def test_stage_weights_look_at_the_stage_that_made_the_difference():
    better, worse = SCORES[0], SCORES[2]
    weights, other = stage_weights(better, worse)
    assert weights.tolist() == other.tolist() == [0.5, 0.5, 1.5, 1.5, 1.5, 1.5]
    unbegun = replace(worse, stages=(worse.stages[0], stage("place", None, None, 1.6)))
    assert stage_weights(better, unbegun)[1].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert np.array_equal(stage_weights(better, better)[0], np.ones(6))


@pytest.fixture
def files(tmp_path):
    save_scores(SCORES, tmp_path / "scores.json")
    save_pairs(make_pairs(SCORES), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet", tmp_path / "scores.json", tmp_path


def test_each_method_reads_its_own_file(files):
    counts = {
        method: len(select(TpoOptions(method=method), *files))
        for method in ("tpo", "dpo", "random-pairs", "group", "rejection-sampling")
    }
    pairs = counts["tpo"]
    assert counts == {"tpo": pairs, "dpo": pairs, "random-pairs": 1, "group": 2, "rejection-sampling": 2}
    assert pairs >= 1


def test_missing_files_and_senseless_combinations_are_refused(files, tmp_path):
    pairs, scores, folder = files
    with pytest.raises(BadInputError, match="does not exist"):
        select(TpoOptions(method="group"), pairs, tmp_path / "absent.json", folder)
    with pytest.raises(BadInputError, match="no pairs of trajectories"):
        select(TpoOptions(method="group", stage_weighted=True), *files)
    with pytest.raises(BadInputError, match="no finished episodes"):
        select(TpoOptions(method="sft"), pairs, scores, folder)
    scores.write_text("{}")
    with pytest.raises(BadInputError, match="not a file of scores"):
        select(TpoOptions(method="group"), *files)
