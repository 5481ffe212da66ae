"""Obstacles: found in depth images of boxes on a table, kept apart from arm and objects, and costed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from grape_episodes import contract
from grape_preference.appearance import gripper_shape
from grape_preference.constraints import check_expression, plan_for_task
from grape_preference.gripper import end_effector_axes, gripper_spheres
from grape_preference.keypoints import track
from grape_preference.language_types import Context
from grape_preference.objectives import apply_objective
from grape_preference.obstacles import CELL, FAR, Obstacles, box_gap, find_obstacles, sphere_gap
from grape_preference.scoring import score_episode
from grape_preference.segmentation import Projector
from grape_preference.stage_scoring import score_stages
from grape_sim.environment import SimEnvironment
from grape_training.bench_obstacle import collision_cost
from grape_training.truth import expert, roll_out, straight
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_factory import make_tracks
from scipy.spatial.transform import Rotation

PROJECTOR = Projector(contract.camera())
HOME = np.array([0.28, 0.0, 0.18])
NO_BOXES = np.empty((0, 2, 3))
PILLAR = np.array([[0.30, -0.02, 0.0], [0.34, 0.02, 0.10]])
HAND = np.array([[0.24, -0.06, 0.17], [0.32, 0.06, 0.28]])  # the gripper at home
BASE = np.array([[0.0, -0.07, 0.0], [0.07, 0.07, 0.1]])
FOREARM = np.array([[0.10, -0.03, 0.32], [0.20, 0.03, 0.38]])


def picture(*boxes: np.ndarray) -> np.ndarray:
    """The depth image (mm) of boxes (2, 3) on the table, by casting a ray through each pixel."""
    rays, origin = PROJECTOR.rays, PROJECTOR.origin
    depth = -origin[2] / np.minimum(rays[:, :, 2], -1e-6)
    for low, high in boxes:
        with np.errstate(divide="ignore"):
            ends = np.sort([(low - origin) / rays, (high - origin) / rays], axis=0)
        near, far = ends[0].max(axis=2), ends[1].min(axis=2)
        depth = np.where((near < far) & (near > 0), np.minimum(depth, near), depth)
    return np.minimum(depth * 1000, 65535).astype(np.uint16)


def find(*depths: np.ndarray, boxes: np.ndarray = NO_BOXES) -> Obstacles:
    return find_obstacles(np.stack(depths), PROJECTOR, boxes, HOME)


def test_a_pillar_is_found_where_it_stands() -> None:
    found = find(picture(PILLAR, HAND, FOREARM))
    x, y, top = found.columns.T
    assert 16 <= len(found.columns) <= 36
    assert (np.abs(x - 0.32) < 0.02 + CELL).all()
    assert (np.abs(y) < 0.02 + CELL).all()
    assert top.max() == pytest.approx(0.10, abs=0.002)
    assert found.gone.tolist() == [0.0]


@pytest.mark.parametrize("boxes", [(), (HAND,), (HAND, FOREARM), (BASE,)])
def test_an_empty_table_and_the_arm_are_no_obstacle(boxes: tuple[np.ndarray, ...]) -> None:
    found = find(picture(*boxes))
    assert found.columns.shape == (0, 3)
    assert sphere_gap(found.columns, np.zeros((4, 2, 3)), np.zeros(2)).tolist() == [FAR] * 4
    assert box_gap(found.columns, np.zeros((4, 3)), np.zeros(3)).tolist() == [FAR] * 4


def test_objects_of_the_task_are_no_obstacles() -> None:
    other = PILLAR + np.array([0.0, 0.15, 0.0])
    depth = picture(PILLAR, other, HAND)
    assert len(find(depth, boxes=np.stack([PILLAR, other])).columns) == 0
    left = find(depth, boxes=PILLAR[None]).columns
    assert (left[:, 1] > 0.1).all()
    assert len(find(depth, boxes=np.full((1, 2, 3), np.nan)).columns) > len(left) > 0


def test_holes_in_the_depth_are_no_obstacle_and_hide_none() -> None:
    depth = picture(PILLAR, HAND)
    assert len(find(np.zeros_like(depth)).columns) == 0
    holes = np.random.default_rng(0).random((3, *depth.shape)) < 0.2
    found = find(*np.where(holes, 0, depth))
    assert 16 <= len(found.columns) <= 36
    assert found.gone.max() == 0.0
    assert find(depth, np.zeros_like(depth)).gone.tolist() == [0.0, 0.0]


def test_what_left_its_place_is_told_from_what_is_hidden() -> None:
    before, hidden = picture(PILLAR), picture(PILLAR, np.array([[0.5, -0.1, 0.0], [0.6, 0.1, 0.3]]))
    moved, taken = picture(PILLAR + np.array([-0.03, 0.02, 0.0])), picture()
    gone = find(before, hidden, moved, taken).gone
    assert gone[:2].tolist() == [0.0, 0.0]
    assert gone[2] > 0.2
    assert gone[3] > 0.9


def test_the_most_disturbed_obstacle_counts() -> None:
    large = np.array([[0.25, 0.12, 0.0], [0.40, 0.30, 0.10]])
    assert find(picture(PILLAR, large), picture(large)).gone[1] > 0.9


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_any_depth_gives_finite_obstacles(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    depths = np.stack([picture(PILLAR, HAND)] * 3)
    wrong = rng.random(depths.shape) < noise
    depths = np.where(wrong, rng.integers(0, 65536, depths.shape), depths).astype(np.uint16)
    found = find_obstacles(depths, PROJECTOR, rng.normal(0.2, 0.3, (2, 2, 3)), HOME)
    assert np.isfinite(found.columns).all()
    assert found.gone.shape == (3,)
    assert ((found.gone >= 0) & (found.gone <= 1)).all()


def column_gap(column: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The gap between two boxes, one of them a column, axis by axis."""
    x, y, top = column.tolist()
    gaps = [
        max(low[0] - (x + CELL / 2), (x - CELL / 2) - high[0]),
        max(low[1] - (y + CELL / 2), (y - CELL / 2) - high[1]),
        low[2] - top,
    ]
    outside = [max(gap, 0.0) for gap in gaps]
    return float(np.sqrt(sum(gap * gap for gap in outside)) + min(max(gaps), 0.0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_gaps_equal_those_one_by_one(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    columns, extent = rng.uniform(0, 0.3, (count, 3)), rng.uniform(0, 0.1, 3)
    centres, radii = rng.uniform(0, 0.3, (5, 4, 3)), rng.uniform(0, 0.05, 4)
    boxes = [min(column_gap(c, p - extent / 2, p + extent / 2) for c in columns) for p in centres[:, 0]]
    np.testing.assert_allclose(box_gap(columns, centres[:, 0], extent), boxes, atol=1e-12)
    spheres = []
    for frame in centres:
        gaps = []
        for place, radius in zip(frame, radii, strict=True):
            for x, y, top in columns:
                aside = max(np.hypot(place[0] - x, place[1] - y) - CELL / 2, 0.0)
                gaps.append(np.hypot(aside, max(place[2] - top, 0.0)) - radius)
        spheres.append(min(gaps))
    np.testing.assert_allclose(sphere_gap(columns, centres, radii), spheres, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_gripper_turns_with_the_end_effector(seed: int) -> None:
    quaternions = np.random.default_rng(seed).normal(size=(3, 4))
    axes = Rotation.from_quat(quaternions).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(end_effector_axes(quaternions), axes, atol=1e-12)


def test_the_gripper_points_down_and_opens_aside() -> None:
    tracks = make_tracks([HOME, HOME], {"carrot": HOME}, gripper=np.array([1.0, 0.0]))
    centres, radii = gripper_spheres(tracks)
    assert centres.shape == (2, len(radii), 3)
    low, high = (centres - radii[:, None]).min(axis=1), (centres + radii[:, None]).max(axis=1)
    np.testing.assert_allclose(low[0] - HOME, [-0.035, -0.053, -0.016], atol=0.003)
    np.testing.assert_allclose(high[0] - HOME, [0.052, 0.053, 0.115], atol=0.003)
    fingers = centres[:, len(gripper_shape().palm) :, 1]
    assert np.ptp(fingers[0]) - np.ptp(fingers[1]) == pytest.approx(2 * (0.037 - 0.015))


def passing(gap: float, moved: float = 0.0):
    """The hand goes down over the carrot; its palm ends up at ``gap`` metres beside a tall thing."""
    hand = np.linspace([0.3, 0.0, 0.3], [0.3, 0.0, 0.04], 12)
    tracks = make_tracks(hand, {"carrot": [0.3, 0.0, 0.012], "plate": [0.3, -0.2, 0.005]})
    reach = sphere_gap(np.array([[0.306, 1.0, 0.2]]), *gripper_spheres(tracks))[-1]
    gone = np.linspace(0.0, moved, 12)
    column = np.array([[0.306, 1.0 - reach + gap, 0.2]])
    return dataclasses.replace(tracks, obstacles=column, obstacles_gone=gone)


def cost(objective: str, tracks) -> float:
    plan = apply_objective(plan_for_task("carrot_on_plate"), objective)
    return sum(stage.kinds["collision"] for stage in score_stages(plan, tracks))


def test_clearance_is_measured_from_the_gripper() -> None:
    values = check_expression("gripper_clearance()", ["carrot"]).evaluate(Context(passing(0.02)))
    assert values[-1] == pytest.approx(0.02, abs=1e-9)
    assert (np.diff(values) < 1e-9).all()


def test_safety_prefers_the_larger_clearance_and_the_task_does_not_mind() -> None:
    assert cost("task", passing(0.01)) == cost("task", passing(0.04)) == 0.0
    safe = [cost("safety", passing(gap)) for gap in (0.01, 0.02, 0.035)]
    assert safe[0] > safe[1] > safe[2] == 0.0
    assert cost("task", passing(-0.005)) > 0.0
    assert cost("task", passing(0.02, moved=0.6)) == pytest.approx(0.5)


def test_a_change_counts_in_the_stage_in_which_it_happened() -> None:
    tracks = passing(0.04, moved=0.6)
    late = check_expression("obstacle_change()", ["carrot"]).evaluate(Context(tracks, stage_start=11))
    assert late.tolist() == [0.0] * 12


def test_the_expert_goes_round_what_the_straight_way_hits() -> None:
    """Everything from images: the obstacle where the simulator has it, and a cost for hitting it only."""
    environment = SimEnvironment(suite="obstacle", depth=True)
    state = environment.suite.state_ids("eval", 1)[0]
    round_it, through = (
        roll_out(environment, state, 0.0, seed=0, max_steps=40, actor=actor) for actor in (expert, straight)
    )
    obstacle = environment.situation(environment.task).obstacles[0]
    environment.close()
    assert (round_it.episode.manifest.collisions, through.episode.manifest.collisions > 0) == (0, True)
    tracks = track(round_it.episode)
    assert tracks is not None
    assert len(tracks.obstacles) > 0
    assert tracks.obstacles[:, 2].max() == pytest.approx(obstacle.top, abs=0.006)
    scores = [score_episode(r.episode, track(r.episode)) for r in (round_it, through)]
    assert collision_cost(scores[0]) < 0.05 < 0.5 < collision_cost(scores[1])
