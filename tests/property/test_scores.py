"""What must hold for any scores: irrelevant things change nothing, pairs stay in their group."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise

import numpy as np
from grape_preference.constraints import plan_for_task
from grape_preference.pairs import make_pairs
from grape_preference.rewards import PRESETS, gcpg
from grape_preference.scoring import Score
from grape_preference.stage_scoring import external_reward, score_stages
from grape_preference.tracks import KeypointTracks
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_factory import make_score, make_tracks

PLAN = plan_for_task("carrot_on_plate")


@st.composite
def walks(draw: st.DrawFn) -> KeypointTracks:
    """Random episodes: hand and carrot wander, the gripper opens and closes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.integers(2, 40))
    hand = np.array([0.3, 0.0, 0.2]) + np.cumsum(rng.normal(0, 0.02, (frames, 3)), axis=0)
    carrot = np.array([0.3, 0.05, 0.02]) + np.cumsum(
        rng.normal(0, draw(st.floats(0, 0.03)), (frames, 3)), axis=0
    )
    objects = {"carrot": carrot, "plate": [0.3, -0.1, 0.005]}
    return make_tracks(hand, objects, gripper=rng.uniform(0, 1, frames))


def reward(tracks: KeypointTracks) -> float:
    return external_reward(score_stages(PLAN, tracks))


@given(walks())
@settings(max_examples=60, deadline=None)
def test_external_reward_is_in_its_range_and_stages_are_in_order(tracks: KeypointTracks) -> None:
    stages = score_stages(PLAN, tracks)
    assert 0.0 < external_reward(stages) <= 1.0
    assert all(stage.cost >= 0.0 and math.isfinite(stage.cost) for stage in stages)
    begun = [stage for stage in stages if stage.begin is not None]
    assert list(stages[: len(begun)]) == begun
    for before, after in pairwise(begun):
        assert before.completed
        assert before.end == after.begin
    for stage in stages:
        unreached = 0.0 if stage.completed else PLAN.unreached_cost
        assert math.isclose(stage.cost, sum(stage.kinds.values()) + unreached, abs_tol=1e-9)


@given(walks(), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_external_reward_ignores_what_the_stages_do_not_read(tracks: KeypointTracks, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stranger = rng.normal(size=(len(tracks), 1, 3))
    more = dataclasses.replace(
        tracks,
        names=("towel", *tracks.names),
        positions=np.concatenate([stranger, tracks.positions], axis=1),
        confidence=np.concatenate([rng.random((len(tracks), 1)), tracks.confidence], axis=1),
        extents=np.concatenate([rng.random((1, 3)), tracks.extents]),
    )
    assert reward(more) == reward(tracks)
    mirrored = dataclasses.replace(
        tracks,
        positions=tracks.positions * [1, -1, 1],
        end_effector_positions=tracks.end_effector_positions * [1, -1, 1],
    )
    assert math.isclose(reward(mirrored), reward(tracks), rel_tol=1e-9)


STATES = [f"carrot_on_plate/train/{i:04d}" for i in range(3)] + ["stack_cube/train/0000"]
VALUES = st.tuples(
    st.floats(-3, 0), st.floats(1e-6, 1), st.booleans(), st.sampled_from(STATES), st.booleans()
)


def scores_of(values: list[tuple[float, float, bool, str, bool]]) -> list[Score]:
    return [
        make_score(
            f"e{i:03d}",
            r_self,
            r_ext,
            success,
            task=state.split("/")[0],
            initial_state_id=state,
            verdict="ok" if usable else "truncated",
        )
        for i, (r_self, r_ext, success, state, usable) in enumerate(values)
    ]


@given(st.lists(VALUES, max_size=25), st.sampled_from(list(PRESETS)), st.integers(1, 3), st.randoms())
@settings(max_examples=100, deadline=None)
def test_pairs_stay_in_their_group_in_any_order(values, preset: str, top: int, rng: random.Random) -> None:
    scores = scores_of(values)
    by_id = {score.episode_id: score for score in scores}
    pairs = make_pairs(scores, preset, top=top)
    for pair in pairs:
        chosen, rejected = by_id[pair.chosen], by_id[pair.rejected]
        for score in (chosen, rejected):
            assert (score.task, score.initial_state_id) == (pair.task, pair.initial_state_id)
            assert score.verdict == "ok"
        assert pair.margin > 0.0
        assert pair.chosen != pair.rejected
    shuffled = scores.copy()
    rng.shuffle(shuffled)
    assert make_pairs(shuffled, preset, top=top) == pairs
    assert len({(pair.chosen, pair.rejected) for pair in pairs}) == len(pairs)
    counts = {task: sum(pair.task == task for pair in pairs) for task in {pair.task for pair in pairs}}
    assert len(set(counts.values())) <= 1  # balanced over the tasks that have any


@given(st.lists(VALUES, min_size=1, max_size=8), st.floats(-2, 2), st.floats(0.1, 5))
@settings(max_examples=60, deadline=None)
def test_balanced_reward_ignores_the_scale_of_a_term(values, shift: float, scale: float) -> None:
    scores = [make_score(f"e{i}", round(v[0], 3), round(v[1], 3), v[2]) for i, v in enumerate(values)]
    other = [dataclasses.replace(s, r_self_mean=shift + scale * (s.r_self_mean or 0.0)) for s in scores]
    np.testing.assert_allclose(gcpg(scores), gcpg(other), atol=1e-6)  # type: ignore[arg-type]


@given(st.floats(-3, 0), st.floats(1e-6, 0.99), st.floats(0.001, 1))
@settings(max_examples=60, deadline=None)
def test_more_reward_in_one_term_is_never_worse(r_self: float, r_ext: float, gain: float) -> None:
    low = make_score("low", r_self, r_ext, False)
    for better in (
        dataclasses.replace(low, episode_id="high", r_ext=min(1.0, r_ext + gain)),
        dataclasses.replace(low, episode_id="high", i_success=1.0),
        dataclasses.replace(low, episode_id="high", r_self=low.r_self + gain, r_self_mean=r_self + gain),  # type: ignore[operator]
    ):
        for preset in PRESETS:
            worse_reward, better_reward = gcpg([low, better], preset)
            assert better_reward >= worse_reward  # type: ignore[operator]
