"""Training the VLA: it learns, resumes exactly, packs prompts exactly, and keeps its targets right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grape_policy.vla.scoring import action_log_probabilities
from grape_training.batches import SamplerOptions
from grape_training.errors import BadInputError
from grape_training.files import TRAINING_CURVE, read_json_lines
from grape_training.frames import OBJECTS, Frames, data_hash, read_frames, shard_folders, write_shard
from grape_training.grounding import patch_coordinates
from grape_training.learner import optimise, parts_from, sampler_of, write_parts
from grape_training.objective import LossOptions, packed_forward, patch_shares, soft_targets
from grape_training.optimisation import ScheduleOptions
from grape_training.pretrain import action_statistics
from grape_training.prompts import PromptBook
from grape_training.sft import MixedSampler, SftOptions, fine_tune
from sft_factory import some_frames, tiny_parts


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder: Path, steps: int, frames: Frames, **options: float) -> list[dict[str, float]]:
    parts = tiny_parts(frames)
    sampler = sampler_of(parts, frames, SamplerOptions(batch_size=4))
    loop = ScheduleOptions(steps=steps, log_every=1, save_every=3, warm_up=2, **options)  # type: ignore[arg-type]
    return optimise(parts, sampler, folder, loop, LossOptions(), "test")


def test_a_tiny_model_overfits_eight_frames(tmp_path):
    frames = some_frames(8)
    parts = tiny_parts(frames)
    sampler = sampler_of(parts, frames, SamplerOptions(batch_size=8, jitter=0.0))
    loop = ScheduleOptions(
        steps=80, learning_rate=3e-3, warm_up=10, weight_decay=0.0, log_every=10, save_every=999
    )
    curve = optimise(parts, sampler, tmp_path, loop, LossOptions(), "test")
    assert curve[-1]["accuracy"] > 0.5 > curve[0]["accuracy"]
    assert curve[-1]["tokens"] < 0.5 * curve[0]["tokens"]


def test_resuming_gives_bit_identical_losses(tmp_path):
    frames = some_frames(8)
    whole = train(tmp_path / "whole", 6, frames)
    train(tmp_path / "parts", 3, frames)
    resumed = train(tmp_path / "parts", 6, frames)
    assert [row["total"] for row in resumed] == [row["total"] for row in whole[3:]]
    assert len(list((tmp_path / "parts").glob("state-*"))) == 1


def test_a_schedule_can_end_early_with_the_losses_of_the_whole_one(tmp_path):
    frames = some_frames(8)
    whole = train(tmp_path / "whole", 5, frames, decay=4)
    early = train(tmp_path / "early", 5, frames, decay=4, stop=2)
    assert [row["total"] for row in early] == [row["total"] for row in whole[:2]]


def test_fine_tuning_measures_statistics_on_the_demonstrations(tmp_path):
    frames = some_frames(6)
    still = replace(frames, actions=frames.actions * np.array([1, 1, 1, 0, 0, 0, 1], np.float32))
    write_parts(tiny_parts(frames), tmp_path / "base", keep_heads=True)
    write_shard(tmp_path / "demos" / "a", still, {})
    options = SftOptions(loop=ScheduleOptions(steps=1, log_every=1), sampler=SamplerOptions(batch_size=4))
    (tmp_path / "base" / TRAINING_CURVE).write_text('{"stage": "pre-training", "step": 20, "tokens": 1.5}\n')
    checkpoint = fine_tune(tmp_path / "base", [tmp_path / "demos"], tmp_path / "run", options)
    curve = read_json_lines(checkpoint / TRAINING_CURVE)
    assert [(row["stage"], row["step"]) for row in curve] == [("pre-training", 20), ("fine-tuning", 1)]
    made = parts_from(checkpoint)
    assert (made.statistics.q99[3:6] == 0).all()
    decoded = made.statistics.unnormalise(np.full(7, 0.9))
    assert (decoded[3:6] == 0).all()
    assert decoded[0] > 0


def test_a_state_of_another_model_is_refused(tmp_path):
    frames = some_frames(8)
    train(tmp_path, 3, frames)
    parts = tiny_parts(frames)
    parts.learner.heads.patch = torch.nn.Linear(64, 3)
    with pytest.raises(BadInputError, match="does not fit this model"):
        optimise(
            parts,
            sampler_of(parts, frames, SamplerOptions()),
            tmp_path,
            ScheduleOptions(6),
            LossOptions(),
            "x",
        )


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    frames = some_frames(4)
    parts = tiny_parts(frames)
    with torch.no_grad():
        parts.learner.model.projector.fc1.weight.fill_(float("nan"))
    sampler = sampler_of(parts, frames, SamplerOptions(batch_size=2))
    with pytest.raises(BadInputError, match="step 0"):
        optimise(parts, sampler, tmp_path, ScheduleOptions(3), LossOptions(), "test")


def test_packed_prompts_give_what_each_prompt_gives_alone():
    frames = some_frames(4)
    parts = tiny_parts(frames)
    batch = sampler_of(parts, frames, SamplerOptions(batch_size=4, grounding=0.5)).batch(0)
    model = parts.learner.model.eval()
    with torch.no_grad():
        packed = packed_forward(model, batch).logits.log_softmax(-1).gather(-1, batch.tokens[..., None])
        for k in range(batch.ids.shape[1]):
            prompts = [[batch.bos, *batch.ids[i, k, : batch.lengths[i, k]].tolist()] for i in range(4)]
            alone = action_log_probabilities(model, batch.pixels, prompts, batch.tokens[:, k])
            torch.testing.assert_close(packed[:, k, :, 0], alone, atol=1e-5, rtol=0)


def test_one_image_is_asked_two_tasks_with_their_own_answers():
    frames = some_frames(8)
    batch = sampler_of(tiny_parts(frames), frames, SamplerOptions(batch_size=8)).batch(3)
    assert (batch.named[:, 0] != batch.named[:, 1]).all()
    assert (batch.tokens[:, 0] != batch.tokens[:, 1]).any(dim=-1).all()
    assert (batch.tokens[..., 7] == 2).all()  # the end token


def test_the_naming_word_is_found_in_every_wording():
    frames = some_frames(8)
    parts = tiny_parts(frames)
    batch = sampler_of(parts, frames, SamplerOptions(batch_size=8)).batch(1)
    book = PromptBook(parts.tokenizer)
    found = batch.ids.gather(2, batch.words)
    assert (found == torch.from_numpy(book.name_ids)[batch.named]).all()
    assert len(set(book.name_ids.tolist())) == len(OBJECTS)


def test_soft_targets_peak_at_the_value_and_decode_to_it():
    values = torch.tensor([-1.0, -0.31, 0.0, 0.77, 1.0])
    targets = soft_targets(values, 256, 2.0)
    torch.testing.assert_close(targets.sum(-1), torch.ones(5))
    centres = -1 + (torch.arange(255) + 0.5) * 2 / 255
    assert (centres[targets.argmax(-1)] - values).abs().max() <= 1 / 255 + 1e-6
    assert (targets[:, 255] == 0).all()


def test_soft_and_hard_targets_agree_on_the_best_token():
    frames = some_frames(8)
    parts = tiny_parts(frames)
    batch = sampler_of(parts, frames, SamplerOptions(batch_size=8)).batch(0)
    best = soft_targets(batch.values, 256, 2.0).flip(-1).argmax(-1) + parts.config.action_ids.start
    hard = batch.tokens[..., :7].clamp(min=parts.config.action_ids.start + 1)  # the value 1 shares a bin
    assert (best == hard).all()


def test_statistics_are_percentiles_of_the_known_labels():
    frames = some_frames(200)
    statistics = action_statistics(frames)
    known = frames.actions[:, :2].reshape(-1, 7)
    np.testing.assert_allclose(statistics.q01, np.quantile(known, 0.01, axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.q99, np.quantile(known, 0.99, axis=0), rtol=1e-6)
    assert statistics.mask.tolist() == [True] * 6 + [False]


def test_patch_shares_ignore_unknown_frames():
    classes = torch.full((2, 28, 28), 255)
    classes[0] = 0
    classes[0, :14, :14] = 5
    shares = patch_shares(classes, 4)
    assert shares[0, 0, 5] == 1
    assert shares[0, 3, 0] == 1
    assert shares[1].sum() == 0


def test_a_point_straight_ahead_of_the_camera_falls_on_the_middle():
    from grape_episodes import contract

    pose = contract.camera().base_from_camera
    ahead = torch.from_numpy(pose[:3, 3] + 0.5 * pose[:3, 2]).float()
    torch.testing.assert_close(patch_coordinates(ahead, 7), torch.tensor([3.5, 3.5]), atol=1e-3, rtol=0)


def test_the_pretrained_checkpoint_loads_with_its_heads(tmp_path):
    frames = some_frames(4)
    parts = tiny_parts(frames)
    write_parts(parts, tmp_path / "base", keep_heads=True)
    loaded = parts_from(tmp_path / "base")
    ours, theirs = parts.learner.state_dict(), loaded.learner.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_mixed_batches_hold_the_asked_share_of_scenes():
    frames = some_frames(4)
    parts = tiny_parts(frames)
    demos = replace(frames, classes=np.full_like(frames.classes, 255))
    options = SftOptions(sampler=SamplerOptions(batch_size=8), mix=0.25)
    batch = MixedSampler(sampler_of(parts, demos, options.sampler), frames, options).batch(0)
    assert [bool((row != 255).any()) for row in batch.classes] == [False] * 6 + [True] * 2


def test_shards_are_whole_or_absent_and_damage_is_named(tmp_path):
    frames = some_frames(3)
    write_shard(tmp_path / "a", frames, {"kind": "test"})
    (tmp_path / "unfinished").mkdir()
    assert [folder.name for folder in shard_folders(tmp_path)] == ["a"]
    np.testing.assert_array_equal(read_frames(tmp_path).images, frames.images)
    assert len(data_hash(tmp_path)) == 64
    np.save(tmp_path / "a" / "held.npy", frames.held[:2])
    with pytest.raises(BadInputError, match="3 rows"):
        read_frames(tmp_path)
    with pytest.raises(BadInputError, match="no finished frames"):
        read_frames(tmp_path / "nothing")
