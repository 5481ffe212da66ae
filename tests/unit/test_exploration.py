"""Going up after the grasp: when, how long, and that what is recorded is what ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from grape_episodes.reader import read_episode
from grape_policy.vla.checkpoint import load_checkpoint
from grape_policy.vla.decoder import ActionDecoder
from grape_training.collect import RolloutPlan, completed, record_rollout
from grape_training.exploration import Lift
from grape_training.pipeline import load_rollouts
from grape_training.policies import PolicySpec, load_vla
from grape_training.tpo import VlaScorer
from vla_factory import tiny_checkpoint

OPEN, CLOSED = np.array([0.0] * 6 + [1.0]), np.array([0.0] * 7)
PLAN = RolloutPlan(("stack_cube/collect/0000",), rollouts=4, max_steps=10, temperature=1.0, lift=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


def lifts(lift: Lift, actions: list[np.ndarray]) -> list[bool]:
    """Return before which of ``actions`` and after the last one the lift speaks."""
    spoken = [bool(lift.forced())]
    for action in actions:
        lift.ran(action)
        spoken.append(bool(lift.forced()))
    return spoken


def test_it_waits_until_the_gripper_has_been_closed_for_two_actions(checkpoint):
    lift = Lift(load_vla(str(checkpoint)), 1, seed=0)
    assert lifts(lift, [OPEN, CLOSED, OPEN, CLOSED, CLOSED]) == [False] * 5 + [True]


def test_it_happens_once_and_lasts_1_to_as_many_actions_as_allowed(checkpoint):
    policy = load_vla(str(checkpoint))
    lengths = [sum(lifts(Lift(policy, 3, seed), [CLOSED] * 20)) for seed in range(40)]
    assert set(lengths) == {1, 2, 3}
    again = [sum(lifts(Lift(policy, 3, seed), [CLOSED] * 20)) for seed in range(40)]
    assert again == lengths


def edge_token(policy) -> int:
    """Return the token of the greatest height itself, the last one; the bin below it has the next id."""
    return policy.token_ids(np.array([0, 0, policy.statistics.q99[2], 0, 0, 0, 0]))[2]


def test_it_uses_the_highest_bin_and_not_the_token_of_its_edge_which_means_the_same_height(checkpoint):
    policy = load_vla(str(checkpoint))
    lift = Lift(policy, 1, seed=0)
    lift.ran(CLOSED)
    lift.ran(CLOSED)
    forced = lift.forced()
    assert forced == {2: edge_token(policy) + 1}
    image = np.zeros((1, 64, 64, 3), np.uint8)
    heights = [
        policy.act(image, ["stack"], forced={2: token}).actions[0, 2]
        for token in (edge_token(policy), forced[2], forced[2] + 1)
    ]
    assert heights[0] == heights[1] > heights[2]


def test_it_goes_up_as_far_as_the_demonstrations_and_leaves_the_rest_to_the_policy(checkpoint):
    policy = load_vla(str(checkpoint))
    lift = Lift(policy, 1, seed=0)
    lift.ran(CLOSED)
    lift.ran(CLOSED)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    own = policy.act(image, ["stack"]).actions[0]
    action = policy.act(image, ["stack"], forced=lift.forced()).actions[0]
    bin_width = (policy.statistics.q99 - policy.statistics.q01)[2] / 255
    assert abs(action[2] - policy.statistics.q99[2]) <= bin_width
    assert action[:2].tolist() == own[:2].tolist()  # decoded before the height


def test_forced_tokens_are_emitted_and_what_follows_is_decoded_given_them(checkpoint):
    loaded = load_checkpoint(checkpoint)
    decoder, ids = ActionDecoder(loaded.model), loaded.config.action_ids
    pixels = loaded.preprocessor(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8))
    prompts = [loaded.tokenizer.prompt_ids("stack")] * 2
    forced = {0: ids.start + 3, 4: ids.start + 200}
    tokens, scores = decoder.decode(pixels, prompts, forced=forced)
    assert tokens[:, [0, 4]].tolist() == [[ids.start + 3, ids.start + 200]] * 2
    with torch.no_grad():
        logits = loaded.model(pixels, prompts, tokens).logits.log_softmax(-1)
    free = [1, 2, 3, 5, 6]
    assert torch.equal(logits[:, free, ids.start : ids.stop].argmax(-1) + ids.start, tokens[:, free])
    torch.testing.assert_close(scores, logits.gather(2, tokens[:, :, None])[:, :, 0], rtol=0, atol=1e-4)


def test_a_lifted_rollout_records_the_tokens_that_ran_with_their_log_probabilities(checkpoint, tmp_path):
    for cell in PLAN.cells:
        spec = PolicySpec(str(checkpoint), PLAN.temperature)
        record_rollout(cell, spec=spec, root=tmp_path, max_steps=PLAN.max_steps, lift=PLAN.lift)
    loaded = load_checkpoint(checkpoint)
    done = completed(tmp_path, PLAN, loaded.version)
    assert len(done) == 4
    policy = load_vla(str(checkpoint))
    up = edge_token(policy) + 1
    rollouts = load_rollouts([entry.episode_id for entry in done.values()], tmp_path, loaded)
    scorer, lifted = VlaScorer(loaded.model, loaded.preprocessor), 0
    for rollout in rollouts.values():
        episode = read_episode(tmp_path / rollout.episode_id)
        lifted += int((episode.token_ids[:, 2] == up).sum())
        recorded = episode.log_probabilities.sum(axis=1)
        np.testing.assert_allclose(scorer.values(rollout, 0, rollout.steps), recorded, atol=1e-4)
    assert 1 <= lifted <= 4 * PLAN.lift


def test_lifted_rollouts_are_never_taken_for_plain_ones(checkpoint):
    plain = RolloutPlan(PLAN.states, rollouts=4, max_steps=10, temperature=1.0)
    other = RolloutPlan(PLAN.states, rollouts=4, max_steps=10, temperature=1.0, lift=5)
    seeds = [{cell.seed for cell in each.cells} for each in (PLAN, plain, other)]
    assert all(len(each) == 4 for each in seeds)
    assert len(set.union(*seeds)) == 12
