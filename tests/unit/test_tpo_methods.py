"""The trainer's methods and options on a real (random) VLA: each does what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint
from grape_policy.vla.statistics import ActionStatistics
from grape_training.errors import BadInputError
from grape_training.lora import attach, checkpoint_activations
from grape_training.tpo_data import Comparison, RolloutPair
from grape_training.tpo_gradient import Preference
from grape_training.tpo_options import Objective
from grape_training.tpo_scorer import VlaScorer, active_dimensions
from safetensors.torch import load_file
from tpo_factory import OPTIONS, random_pairs, rows, train
from vla_factory import STATISTICS, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(checkpoint) -> list[RolloutPair]:
    return random_pairs(checkpoint)


@pytest.mark.parametrize("method", ["rejection-sampling", "sft"])
def test_imitation_raises_the_likelihood_and_has_no_margin(checkpoint, pairs, tmp_path, method):
    data = [Comparison((pair.chosen,)) for pair in pairs]
    result = train(checkpoint, data, tmp_path, method=method, epochs=4)
    curve = rows(tmp_path)
    assert result.margin is None
    assert "margin" not in curve[0]
    assert curve[-1]["chosen_log_probability"] > curve[0]["chosen_log_probability"] + 0.5
    assert curve[0]["kl"] == 0.0


def test_stepwise_dpo_starts_at_ln_2_and_separates_the_pairs(checkpoint, pairs, tmp_path):
    result = train(checkpoint, pairs, tmp_path, method="dpo", epochs=4)
    assert rows(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.accuracy is not None
    assert result.accuracy > 0.6


def test_group_learns_the_order_of_its_rollouts(checkpoint, pairs, tmp_path):
    best, middle, worst = pairs[0].chosen, pairs[1].chosen, pairs[2].chosen
    preferences = (Preference(0, 1, 0.25), Preference(1, 2, 0.25), Preference(0, 2, 0.5))
    data = [Comparison((best, middle, worst), preferences)]
    result = train(checkpoint, data, tmp_path, method="group", epochs=8)
    curve = rows(tmp_path)
    assert curve[0]["margin"] == 0.0
    assert curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert curve[-1]["accuracy"] == 1.0
    assert result.steps == 8


def test_a_group_of_two_is_a_pair(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path / "pair")
    train(checkpoint, [pair.comparison() for pair in pairs], tmp_path / "group")
    assert rows(tmp_path / "pair") == rows(tmp_path / "group")


def test_step_weights_change_the_gradient_but_not_the_start(checkpoint, pairs, tmp_path):
    def weighted(pair: RolloutPair) -> Comparison:
        weights = tuple(np.linspace(0.5, 1.5, r.steps) for r in (pair.chosen, pair.rejected))
        return replace(pair.comparison(), step_weights=weights)

    train(checkpoint, pairs, tmp_path / "plain")
    train(checkpoint, [weighted(pair) for pair in pairs], tmp_path / "weighted")
    plain, other = rows(tmp_path / "plain"), rows(tmp_path / "weighted")
    assert plain[0]["margin"] == other[0]["margin"] == 0.0
    assert plain[0]["gradient_norm"] != pytest.approx(other[0]["gradient_norm"], rel=1e-3)


def test_warmup_raises_the_learning_rate_linearly(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path, warmup=4, learning_rate=4e-3)
    assert [row["learning_rate"] for row in rows(tmp_path)] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3])


def test_gradient_checkpointing_changes_nothing_but_memory(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path / "kept")
    train(checkpoint, pairs, tmp_path / "recomputed", gradient_checkpointing=True)
    for kept, recomputed in zip(rows(tmp_path / "kept"), rows(tmp_path / "recomputed"), strict=True):
        assert kept == pytest.approx(recomputed, rel=1e-4, abs=1e-6)


def test_gradient_checkpointing_keeps_less_for_the_backward_pass(checkpoint, pairs):
    kept = []
    for recompute in (False, True):
        loaded = load_checkpoint(checkpoint)
        adapted = attach(loaded.model, OPTIONS.lora, checkpoint, 0)
        if recompute:
            checkpoint_activations(adapted)
        scorer, sizes = VlaScorer(adapted, loaded.preprocessor), []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            scorer(pairs[0].chosen, 0, pairs[0].chosen.steps)
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_mixed_precision_starts_exact_and_stays_near(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path / "full")
    train(checkpoint, pairs, tmp_path / "mixed", precision="bfloat16")
    full, mixed = rows(tmp_path / "full")[0], rows(tmp_path / "mixed")[0]
    assert mixed["margin"] == 0.0
    assert mixed["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.1)
    assert mixed["gradient_norm"] != full["gradient_norm"]


def test_clipping_bounds_the_step_but_not_the_reported_norm(checkpoint, pairs, tmp_path):
    for norm in (1e-6, 1e6):
        train(checkpoint, pairs, tmp_path / str(norm), max_gradient_norm=norm, epochs=1)
    small, large = (rows(tmp_path / str(norm))[0] for norm in (1e-6, 1e6))
    assert small["gradient_norm"] == large["gradient_norm"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "ppo"}, "unknown method 'ppo'"),
        ({"objective": Objective(loss="square")}, "unknown loss 'square'"),
        ({"objective": Objective(label_smoothing=0.5)}, "label smoothing"),
        ({"objective": Objective(beta=0.0)}, "beta must be above 0"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_impossible_options_are_refused(checkpoint, pairs, tmp_path, changes, words):
    with pytest.raises(BadInputError, match=words):
        train(checkpoint, pairs, tmp_path, **changes)


CONSTANT = ActionStatistics(
    np.array([-0.03, -0.04, -0.03, 0.0, 0.0, 0.0, 0.0]),
    np.array([0.03, 0.04, 0.04, 0.0, 0.0, 0.0, 0.0]),
    np.array([True] * 6 + [False]),
)


def test_only_dimensions_that_always_decode_alike_are_inactive():
    # The gripper is not normalised: its q01 = q99 = 0 says nothing about what its tokens decode to.
    assert active_dimensions({"a": CONSTANT}).tolist() == [True] * 3 + [False] * 3 + [True]
    assert active_dimensions({"a": CONSTANT, "b": STATISTICS}).all()
    tokens = np.linspace(-1, 1, 9)[:, None].repeat(7, axis=1)
    decoded = CONSTANT.unnormalise(tokens)
    assert (np.ptp(decoded, axis=0) > 0).tolist() == active_dimensions({"a": CONSTANT}).tolist()


def test_tokens_of_inactive_dimensions_do_not_enter_the_sum(checkpoint, pairs):
    """The value given the other tokens: later tokens still read the noise before them, as the policy did."""
    loaded = load_checkpoint(checkpoint)
    active = active_dimensions({"a": CONSTANT})
    rollout = pairs[0].chosen
    masked = VlaScorer(loaded.model, loaded.preprocessor, active).values(rollout, 0, rollout.steps)
    parts = [
        VlaScorer(loaded.model, loaded.preprocessor, np.arange(7) == d).values(rollout, 0, rollout.steps)
        for d in range(7)
    ]
    assert masked == pytest.approx(sum(part for d, part in enumerate(parts) if active[d]), rel=1e-5)
    everything = VlaScorer(loaded.model, loaded.preprocessor).values(rollout, 0, rollout.steps)
    assert np.abs(everything - masked).min() > 0.1


def test_cached_references_of_other_dimensions_are_not_reused(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path, epochs=1)
    (tmp_path / "state.safetensors").unlink()
    train(checkpoint, pairs, tmp_path, epochs=1, active=active_dimensions({"a": CONSTANT}))
    assert rows(tmp_path)[0]["margin"] == 0.0
    assert len(list((tmp_path / "reference").iterdir())) == 2 * 2 * len(pairs)


def test_adapters_of_different_seeds_differ(checkpoint, pairs, tmp_path):
    weights = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(weights))
        train(checkpoint, pairs, folder, epochs=1, seed=seed)
        weights.append(load_file(folder / "adapter/adapter_model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
