"""Demonstrations and rendered scenes: what they hold is what the simulation knows."""

from __future__ import annotations

import numpy as np
import pytest
from grape_episodes.reader import read_episode
from grape_sim.rendering import OBJECT_IDS
from grape_training.demos import DemoOptions, make_demos
from grape_training.errors import BadInputError
from grape_training.frames import OBJECTS, TASK_NAMES, UNKNOWN_CLASS, read_frames
from grape_training.scenes import coarse_classes, render_shard


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    root = tmp_path_factory.mktemp("demos")
    make_demos(root, ("carrot_on_plate",), 1, DemoOptions(noise=0.004, image_size=32))
    return root


def test_a_recorded_demonstration_reads_back_as_a_successful_episode(demos):
    (folder,) = (demos / "episodes").iterdir()
    episode = read_episode(folder)
    assert episode.manifest.success
    assert episode.manifest.outcome == "success"
    assert episode.manifest.task == "carrot_on_plate"
    assert episode.images.shape == (episode.steps + 1, 240, 320, 3)
    assert episode.depths is not None


def test_the_frames_are_those_of_the_episode_with_labels_for_both_tasks(demos):
    (folder,) = (demos / "episodes").iterdir()
    episode, frames = read_episode(folder), read_frames(demos / "frames")
    assert len(frames) == episode.steps
    np.testing.assert_allclose(frames.gripper, episode.end_effector_positions[:-1], atol=1e-5)
    labelled = ~np.isnan(frames.actions[:, :, 0])
    assert (labelled.sum(axis=1) == 2).all()
    assert labelled[:, TASK_NAMES.index("carrot_on_plate")].all()
    assert (~np.isnan(frames.objects[:, :, 0])).sum(axis=1).tolist() == [4] * len(frames)
    assert (frames.held == OBJECTS.index("carrot")).any()
    assert (frames.classes == UNKNOWN_CLASS).all()


def test_labels_are_the_clean_expert_and_not_the_noisy_action(demos):
    (folder,) = (demos / "episodes").iterdir()
    executed = read_episode(folder).actions
    label = read_frames(demos / "frames").actions[:, TASK_NAMES.index("carrot_on_plate")]
    assert np.linalg.norm(label[:, :3], axis=1).max() <= 0.04 + 1e-6
    assert np.abs(executed[:, :3] - label[:, :3]).max() > 1e-4
    np.testing.assert_allclose(executed[:, 3:], label[:, 3:], atol=1e-6)


def test_finished_demonstrations_are_not_made_again(demos):
    before = (demos / "frames" / "demos-00000" / "index.json").stat().st_mtime_ns
    make_demos(demos, ("carrot_on_plate",), 1, DemoOptions(noise=0.004, image_size=32))
    assert (demos / "frames" / "demos-00000" / "index.json").stat().st_mtime_ns == before


def test_an_unknown_task_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(BadInputError, match="unknown task"):
        make_demos(tmp_path, ("juggle",), 1, DemoOptions())


def test_rendered_scenes_are_reproducible_and_their_labels_are_where_the_pixels_are():
    frames, again = (render_shard(8, 32, seed=5) for _ in range(2))
    np.testing.assert_array_equal(frames.images, again.images)
    np.testing.assert_array_equal(frames.actions, again.actions)
    shown = ~np.isnan(frames.objects[:, :, 0])
    assert (shown.sum(axis=1) == 4).all()
    for row in np.flatnonzero((frames.classes != UNKNOWN_CLASS).any(axis=(1, 2))):
        seen = set(np.unique(frames.classes[row])) & set(OBJECT_IDS.values())
        assert seen <= {OBJECT_IDS[OBJECTS[k]] for k in np.flatnonzero(shown[row])}


def test_coarse_classes_sample_the_central_square():
    masks = np.zeros((240, 320), np.uint8)
    masks[:, 40:280] = 7
    assert (coarse_classes(masks) == 7).all()
    assert (coarse_classes(None) == UNKNOWN_CLASS).all()


class _Still:
    """A policy that stays where it is."""

    def act(self, images, instructions):
        from types import SimpleNamespace

        actions = np.zeros((len(images), 7))
        actions[:, 6] = 1.0
        return SimpleNamespace(actions=actions)


def test_relabelled_rollouts_hold_the_experts_answer_to_where_the_policy_went():
    from grape_training.relabel import RelabelOptions, rollouts

    options = RelabelOptions(max_steps=3, expert_share=0.0, image_size=32)
    frames = rollouts(_Still(), ["stack_cube/train/0001", "stack_cube/train/0002"], options)
    assert len(frames) == 6
    np.testing.assert_allclose(frames.gripper[0], frames.gripper[2], atol=2e-3)
    label = frames.actions[:, TASK_NAMES.index("stack_cube")]
    assert (np.linalg.norm(label[:, :3], axis=1) > 0.03).all()  # the expert would have moved
