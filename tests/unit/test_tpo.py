"""The TPO trainer on a real (random) VLA: exact start, learning, resume, cache, refusal of bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint
from grape_policy.vla.inference import VlaPolicy
from grape_training import tpo
from grape_training.errors import BadInputError
from grape_training.tpo import TpoResult, train_tpo
from grape_training.tpo_data import ReferenceCache, Rollout, RolloutPair, pairs_hash
from grape_training.tpo_options import LoraOptions, Objective, TpoOptions
from safetensors.torch import load_file
from vla_factory import tiny_checkpoint

OPTIONS = TpoOptions(
    objective=Objective(beta=0.2),
    lora=LoraOptions(rank=4, alpha=8),
    learning_rate=3e-3,
    epochs=3,
    pairs_per_step=2,
    micro_batch=4,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(checkpoint) -> list[RolloutPair]:
    """Rollouts of the policy itself on random images, of different lengths."""
    policy = VlaPolicy.from_checkpoint(checkpoint)
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)

    def rollout(name: str, steps: int) -> Rollout:
        images = rng.integers(0, 255, (steps, 32, 32, 3), dtype=np.uint8)
        instruction = "put the carrot on the plate"
        batch = policy.act(images, [instruction] * steps, 1.0, generator)
        return Rollout(name, images, tuple(policy.prompt_ids([instruction])[0]), batch.token_ids)

    return [RolloutPair(rollout(f"w{i}", 5 + 2 * i), rollout(f"l{i}", 11 - i)) for i in range(5)]


def train(checkpoint: Path, pairs, output: Path, options: TpoOptions = OPTIONS) -> TpoResult:
    loaded = load_checkpoint(checkpoint)
    return train_tpo(
        loaded.model,
        loaded.preprocessor,
        pairs,
        output,
        options,
        checkpoint=checkpoint,
        model_hash=loaded.version,
        progress=False,
    )


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_first_margin_is_exactly_zero_and_training_separates_the_pairs(checkpoint, pairs, tmp_path):
    result = train(checkpoint, pairs, tmp_path)
    metrics = rows(tmp_path)
    assert metrics[0]["margin"] == 0.0
    assert metrics[0]["kl"] == 0.0
    assert metrics[0]["loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert result.steps == len(metrics) == 9
    assert result.margin > 0.5
    assert result.accuracy == 1.0
    assert result.loss < 0.65
    assert list((tmp_path / "tensorboard").iterdir())


def test_inference_with_the_adapter_prefers_the_chosen_actions(checkpoint, pairs, tmp_path):
    """The written adapter, merged by the loader, gives the margin that training saw."""
    train(checkpoint, pairs, tmp_path)
    base, tuned = load_checkpoint(checkpoint), load_checkpoint(tmp_path / "adapter")

    def total(loaded, rollout: Rollout) -> float:
        return float(tpo.VlaScorer(loaded.model, loaded.preprocessor).values(rollout, 0, rollout.steps).sum())

    for pair in pairs:
        chosen = total(tuned, pair.chosen) - total(base, pair.chosen)
        rejected = total(tuned, pair.rejected) - total(base, pair.rejected)
        assert chosen > rejected


def test_resuming_after_a_kill_gives_the_same_bits(checkpoint, pairs, tmp_path, monkeypatch):
    whole = train(checkpoint, pairs, tmp_path / "whole")

    class Killed(BaseException):
        pass

    real, calls = tpo.save_state, []

    def save_then_die(*arguments) -> None:
        real(*arguments)
        calls.append(1)
        if len(calls) == 4:
            raise Killed

    monkeypatch.setattr(tpo, "save_state", save_then_die)
    with pytest.raises(Killed):
        train(checkpoint, pairs, tmp_path / "cut")
    monkeypatch.setattr(tpo, "save_state", real)
    resumed = train(checkpoint, pairs, tmp_path / "cut")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert (resumed.loss, resumed.margin) == (whole.loss, whole.margin)
    first, second = (load_file(tmp_path / n / "adapter/adapter_model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_reference_values_are_computed_once(checkpoint, pairs, tmp_path, monkeypatch):
    calls: list[str] = []
    real = tpo.VlaScorer.values

    def counted(self, rollout, start, stop):
        calls.append(rollout.episode_id)
        return real(self, rollout, start, stop)

    monkeypatch.setattr(tpo.VlaScorer, "values", counted)
    train(checkpoint, pairs, tmp_path)
    batches = sum(-(-r.steps // OPTIONS.micro_batch) for p in pairs for r in (p.chosen, p.rejected))
    assert len(calls) == batches
    (tmp_path / "state.safetensors").unlink()
    train(checkpoint, pairs, tmp_path, replace(OPTIONS, seed=1))
    assert len(calls) == batches


def test_cache_does_not_mix_models_or_tokens(pairs, tmp_path):
    rollout = pairs[0].chosen
    cache = ReferenceCache(tmp_path, "model-a", 4)
    cache.put(rollout, np.arange(rollout.steps, dtype=np.float64))
    assert cache.get(rollout).tolist() == list(range(rollout.steps))
    assert ReferenceCache(tmp_path, "model-b", 4).get(rollout) is None
    assert ReferenceCache(tmp_path, "model-a", 8).get(rollout) is None
    changed = replace(rollout, token_ids=rollout.token_ids + 1)
    assert cache.get(changed) is None
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    assert cache.get(rollout) is None


def test_other_options_or_data_do_not_resume_a_run(checkpoint, pairs, tmp_path):
    train(checkpoint, pairs, tmp_path)
    with pytest.raises(BadInputError, match="other data or options"):
        train(checkpoint, pairs, tmp_path, replace(OPTIONS, learning_rate=1e-3))
    with pytest.raises(BadInputError, match="other data or options"):
        train(checkpoint, pairs[:-1], tmp_path)


def test_no_pairs_is_refused_with_a_remedy(checkpoint, tmp_path):
    with pytest.raises(BadInputError, match="Collect more rollouts"):
        train(checkpoint, [], tmp_path)


def test_damaged_resume_state_is_refused(checkpoint, pairs, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BadInputError, match="damaged"):
        train(checkpoint, pairs, tmp_path)


def test_data_hash_depends_on_order_and_content(pairs):
    swapped = RolloutPair(pairs[0].rejected, pairs[0].chosen)
    assert pairs_hash(pairs) != pairs_hash([swapped, *pairs[1:]])
    assert pairs_hash(pairs) == pairs_hash(list(pairs))
