"""Rollouts in simulation: what is trained is what ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grape_episodes.reader import read_episode
from grape_policy.arm.description import load_description
from grape_policy.vla.checkpoint import load_checkpoint
from grape_training.collect import RolloutPlan, completed, record_rollout
from grape_training.errors import BadInputError
from grape_training.pipeline import load_rollouts, read_pairs
from grape_training.policies import PolicySpec, load_vla
from grape_training.tpo import VlaScorer
from vla_factory import tiny_checkpoint

PLAN = RolloutPlan(("stack_cube/collect/0000",), rollouts=2, max_steps=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def episodes(checkpoint, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    for cell in PLAN.cells:
        record_rollout(cell, spec=PolicySpec(str(checkpoint), PLAN.temperature), root=root, max_steps=3)
    return root


def test_recorded_tokens_have_the_recorded_log_probabilities(checkpoint, episodes):
    """The image of step t with the tokens of step t: an off-by-one anywhere would break this."""
    loaded = load_checkpoint(checkpoint)
    done = completed(episodes, PLAN, loaded.version)
    assert len(done) == 2
    rollouts = load_rollouts([entry.episode_id for entry in done.values()], episodes, loaded)
    scorer = VlaScorer(loaded.model, loaded.preprocessor)
    for rollout in rollouts.values():
        recorded = read_episode(episodes / rollout.episode_id).log_probabilities.sum(axis=1)
        np.testing.assert_allclose(scorer.values(rollout, 0, rollout.steps), recorded, atol=1e-4)


def test_rollouts_of_a_state_start_alike_and_then_differ(checkpoint, episodes):
    version = load_vla(str(checkpoint)).version
    first, second = (read_episode(entry.folder) for entry in completed(episodes, PLAN, version).values())
    assert np.array_equal(first.images[0], second.images[0])
    assert not np.array_equal(first.token_ids, second.token_ids)
    assert first.manifest.policy_version == version
    assert first.manifest.source == "env"
    assert len(first.images) == first.steps + 1 == 4


def test_the_last_picture_is_taken_when_the_arm_has_come_to_rest(checkpoint, episodes):
    version = load_vla(str(checkpoint)).version
    gripper = load_description("wx250s").gripper
    for entry in completed(episodes, PLAN, version).values():
        episode = read_episode(entry.folder)
        assert np.diff(episode.stamps_ns).tolist() == [200_000_000, 200_000_000, 600_000_000]
        wanted = gripper.closed + episode.actions[-1, 6] * (gripper.open - gripper.closed)
        assert abs(episode.joint_positions[-1, -1] - wanted) < 2e-3


def test_only_what_is_missing_is_collected(checkpoint, episodes):
    version = load_vla(str(checkpoint)).version
    wider = RolloutPlan(PLAN.states, rollouts=3, max_steps=3)
    done = completed(episodes, wider, version)
    assert [cell in done for cell in wider.cells] == [True, True, False]
    assert not completed(episodes, PLAN, "other-00000000")
    assert not completed(episodes, RolloutPlan(PLAN.states, rollouts=2, temperature=0.5), version)


def test_missing_or_damaged_pairs_are_one_clear_error(tmp_path):
    with pytest.raises(BadInputError, match="grape score"):
        read_pairs(tmp_path / "pairs.parquet")
    (tmp_path / "pairs.parquet").write_bytes(b"no table")
    with pytest.raises(BadInputError, match="no table of pairs"):
        read_pairs(tmp_path / "pairs.parquet")
