"""Keypoints from images against the simulator's truth, which nothing but these tests sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from grape_episodes import contract
from grape_preference.appearance import appearances, gripper_opening, scene_objects
from grape_preference.drawing import draw_keypoints, project
from grape_preference.keypoints import track
from grape_preference.scoring import score_episode
from grape_preference.segmentation import Projector, propose
from grape_preference.stage_scoring import ScoringError
from grape_sim.environment import SimEnvironment
from preference_rollouts import TASKS, Rollout, roll_out

MAX_MEDIAN_ERROR, MIN_TRACKED = 0.015, 0.90


@pytest.fixture(scope="module")
def rollouts() -> Iterator[list[Rollout]]:
    """Two episodes of every task: the expert's own and a noisy one."""
    environment = SimEnvironment(depth=True)
    yield [
        roll_out(environment, f"{task}/train/{index:04d}", noise, seed=index, max_steps=30)
        for task in TASKS
        for index, noise in ((1, 0.0), (2, 0.012))
    ]
    environment.close()


def errors_of(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances (T+1, K) of tracked keypoints to the truth, and the confidence."""
    tracks = track(rollout.episode)
    assert tracks is not None
    truth = np.stack([rollout.centres[name] for name in tracks.names], axis=1)
    return np.linalg.norm(tracks.positions - truth, axis=2), tracks.confidence


def test_tracked_keypoints_are_near_the_truth(rollouts: list[Rollout]) -> None:
    found = [errors_of(rollout) for rollout in rollouts]
    errors = np.concatenate([error for error, _ in found])
    tracked = float(np.mean(np.concatenate([confidence for _, confidence in found]) > 0))
    print(f"median {np.median(errors) * 100:.2f} cm, {tracked:.1%} tracked")
    assert np.median(errors) <= MAX_MEDIAN_ERROR
    assert np.percentile(errors, 95) <= 2 * MAX_MEDIAN_ERROR
    assert tracked >= MIN_TRACKED
    assert all(np.median(error) <= MAX_MEDIAN_ERROR for error, _ in found)


def test_all_objects_on_the_table_are_found_and_no_others(rollouts: list[Rollout]) -> None:
    projector = Projector(contract.camera())
    for rollout in rollouts[::2]:
        episode = rollout.episode
        assert episode.depths is not None
        on_table = {name for name, centre in rollout.centres.items() if centre[0, 0] > 0.1}
        scene = [appearances()[name] for name in scene_objects()]
        found = propose(episode.images[0], episode.depths[0], projector, scene)
        assert found.keys() == on_table
        for name, candidate in found.items():
            middle = (candidate.lower + candidate.upper) / 2
            assert np.linalg.norm((middle - rollout.centres[name][0])[:2]) < 0.02, name


def test_held_objects_move_with_the_gripper_when_hidden(rollouts: list[Rollout]) -> None:
    """Paint everything that is lifted out of the images: the track goes on with the end effector."""
    rollout = next(
        r for r in rollouts if r.episode.manifest.success and r.episode.manifest.task == "stack_cube"
    )
    heights = rollout.centres["green_cube"][:, 2]
    lifted = np.flatnonzero(heights > 0.05)[1:3]
    images = rollout.episode.images.copy()
    images[lifted] = 90  # grey: no declared colour
    hidden = track(dataclasses.replace(rollout.episode, images=images))
    assert hidden is not None
    cube = hidden.names.index("green_cube")
    error = np.linalg.norm(hidden.positions[lifted, cube] - rollout.centres["green_cube"][lifted], axis=1)
    assert (error < 0.02).all()
    assert (hidden.confidence[lifted, cube] < 0.5).all()
    target = hidden.names.index("yellow_cube")
    assert (hidden.confidence[lifted, target] == 0.0).all()  # kept where it was, and said so


def test_an_object_that_is_never_seen_has_no_position_and_no_score(rollouts: list[Rollout]) -> None:
    episode = dataclasses.replace(rollouts[0].episode, images=np.full_like(rollouts[0].episode.images, 90))
    tracks = track(episode)
    assert tracks is not None
    assert np.isnan(tracks.positions).all()
    score = score_episode(episode, tracks)
    assert (score.verdict, score.r_ext) == ("missing_keypoints", None)


def test_without_depth_there_are_no_tracks(rollouts: list[Rollout]) -> None:
    assert track(dataclasses.replace(rollouts[0].episode, depths=None)) is None


def test_invalid_depth_pixels_do_not_move_keypoints(rollouts: list[Rollout]) -> None:
    """A real camera has holes: a fifth of the depth pixels are lost at random."""
    episode = rollouts[0].episode
    assert episode.depths is not None
    holes = np.random.default_rng(0).random(episode.depths.shape) < 0.2
    errors, confidence = errors_of(
        dataclasses.replace(
            rollouts[0], episode=dataclasses.replace(episode, depths=np.where(holes, 0, episode.depths))
        )
    )
    assert np.median(errors) <= MAX_MEDIAN_ERROR
    assert (confidence > 0).mean() >= MIN_TRACKED


def test_an_undeclared_object_is_refused(rollouts: list[Rollout]) -> None:
    episode = rollouts[0].episode
    with pytest.raises(ScoringError, match="no appearance is declared for 'unicorn'"):
        track(episode, ["unicorn"])
    blind = dataclasses.replace(episode, joint_names=("waist", *episode.joint_names[1:-1], "finger"))
    with pytest.raises(ScoringError, match="no joint 'gripper'"):
        track(blind)


def test_success_scores_above_failure_with_perceived_keypoints(rollouts: list[Rollout]) -> None:
    scores = [score_episode(rollout.episode, track(rollout.episode)) for rollout in rollouts]
    assert {score.verdict for score in scores} == {"ok"}
    expert = [score.r_ext or 0.0 for score in scores[::2]]
    assert min(expert) > 0.6
    failed = [score.r_ext or 0.0 for score in scores if not score.i_success]
    assert max(failed, default=0.0) < min(expert)


def test_drawing_marks_the_objects(rollouts: list[Rollout]) -> None:
    episode = rollouts[0].episode
    tracks = track(episode)
    assert tracks is not None
    drawn = draw_keypoints(episode.images[0], tracks, 0, episode.camera)
    assert drawn.shape == (480, 640, 3)
    assert drawn.dtype == np.uint8
    for place in project(tracks.positions[0], episode.camera):
        u, v = (place * 2).astype(int)
        patch = drawn[v - 8 : v + 9, u - 8 : u + 9].reshape(-1, 3)
        assert (patch == 255).all(axis=1).any()  # the white ring around the disc


def test_projection_inverts_back_projection() -> None:
    camera = contract.camera()
    depth = np.full((camera.height, camera.width), 800, np.uint16)
    pixels = np.array([[10, 20], [300, 200]])
    np.testing.assert_allclose(project(Projector(camera).points(pixels, depth), camera), pixels, atol=1e-9)


def test_gripper_opening_is_a_share() -> None:
    np.testing.assert_allclose(gripper_opening(np.array([0.0, 0.015, 0.026, 0.037, 0.05])), [0, 0, 0.5, 1, 1])
