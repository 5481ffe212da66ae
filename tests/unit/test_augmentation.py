"""What training does to images: colours within bounds, and crops that take every label along."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from grape_training.augmentation import crop, draw_windows, jitter, recolour, whole_windows
from grape_training.batches import SamplerOptions
from grape_training.errors import BadInputError
from grape_training.grounding import places
from grape_training.learner import sampler_of
from grape_training.objective import patch_shares
from grape_training.sft import SftOptions, fine_tune
from sft_factory import some_frames, tiny_parts


def test_jitter_changes_colours_within_bounds_and_nothing_else():
    pixels = torch.ones(2, 6, 8, 8)
    changed = jitter(pixels, 0.15, np.random.default_rng(0))
    assert not torch.equal(changed, pixels)
    assert (changed - 1).abs().max() < 0.5
    assert (changed == changed[:, :, :1, :1]).all()


def test_windows_hold_nine_tenths_of_the_area_and_stay_inside():
    windows = draw_windows(200, np.random.default_rng(0))
    assert windows[:, 2] ** 2 == pytest.approx(0.9)
    assert windows[:, :2].min() >= 0
    assert (windows[:, :2] + windows[:, 2:]).max() <= 1
    assert windows[:, :2].std(axis=0) == pytest.approx((1 - math.sqrt(0.9)) / math.sqrt(12), rel=0.1)


def test_the_whole_window_changes_nothing():
    frames = some_frames(3)
    same = crop(frames, whole_windows(3))
    np.testing.assert_array_equal(same.images, frames.images)
    np.testing.assert_array_equal(same.classes, frames.classes)


def test_a_crop_moves_image_and_classes_alike():
    frames = some_frames(1, size=112)
    ramp = np.tile(np.arange(112, dtype=np.uint8)[None, :, None] * 2, (112, 1, 3))
    classes = np.tile((np.arange(28) // 3).astype(np.uint8), (28, 1))
    frames = replace(frames, images=ramp[None], classes=classes[None])
    window = np.array([[0.05, 0.0, 0.9]], np.float32)
    moved = crop(frames, window)
    columns = 2 * (0.05 * 112 + 0.9 * (np.arange(112) + 0.5) - 0.5)
    np.testing.assert_allclose(moved.images[0, 50, :, 0], columns, atol=1.0)
    sampled = classes[0][np.floor(0.05 * 28 + 0.9 * (np.arange(28) + 0.5)).astype(int)]
    assert (moved.classes[0, 10] == sampled).mean() > 0.9  # ties between two cells may go either way


def test_where_a_word_looks_follows_the_crop():
    frames = some_frames(4)
    whole = sampler_of(tiny_parts(frames), frames, SamplerOptions(batch_size=4)).batch(0)
    shifted = replace(whole, windows=torch.tensor([[0.05, 0.05, 0.9]]).expand(4, 3))

    def middles(batch):
        share = places(batch, 49).unflatten(-1, (7, 7))
        axis = torch.arange(7) + 0.5
        return torch.stack([(share.sum(-2) * axis).sum(-1), (share.sum(-1) * axis).sum(-1)], -1)

    before, after = middles(whole), middles(shifted)
    inside = ((before > 2) & (before < 5)).all(-1)
    assert inside.any()
    wanted = (before - 7 * 0.05) / 0.9
    assert (after - wanted)[inside].abs().max() < 0.15


def test_recolouring_stays_within_openvlas_bounds():
    grey = np.full((64, 8, 8, 3), 128, np.uint8)
    changed = recolour(grey, np.random.default_rng(0)).astype(float) / 255
    assert np.abs(changed - 128 / 255).max() < 0.2 + 1 / 255
    assert np.ptp(changed[:, 0, 0, 0]) > 0.3
    red = np.zeros((64, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    shifted = recolour(red, np.random.default_rng(1))[:, 0, 0]
    assert (shifted.argmax(-1) == 0).all()  # a hue may change by 18 degrees, red stays red
    assert len(np.unique(shifted, axis=0)) > 50


def test_openvlas_augmentation_changes_batches_and_marks_the_checkpoint(tmp_path):
    frames = some_frames(8)
    parts = tiny_parts(frames)
    plain = sampler_of(parts, frames, SamplerOptions(batch_size=4)).batch(0)
    options = SamplerOptions(batch_size=4, augmentation="openvla")
    changed = sampler_of(parts, frames, options).batch(0)
    again = sampler_of(parts, frames, options).batch(0)
    assert torch.equal(changed.pixels, again.pixels)
    assert not torch.equal(changed.pixels, plain.pixels)
    assert torch.equal(changed.windows[:, 2], torch.full((4,), math.sqrt(0.9)))
    assert patch_shares(changed.classes, 4).sum() > 0


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(BadInputError, match="colour, openvla"):
        SamplerOptions(augmentation="flip")


def test_a_model_trained_with_crops_sees_the_centre(tmp_path):
    from grape_policy.vla.checkpoint import load_checkpoint
    from grape_training.frames import write_shard
    from grape_training.learner import write_parts
    from grape_training.optimisation import ScheduleOptions

    frames = some_frames(8)
    write_parts(tiny_parts(frames), tmp_path / "base", keep_heads=True)
    write_shard(tmp_path / "demos" / "frames" / "demos-0", frames, {"kind": "test"})
    options = SftOptions(
        loop=ScheduleOptions(steps=2, log_every=1),
        sampler=SamplerOptions(batch_size=4, augmentation="openvla"),
        mix=0.0,
    )
    folder = fine_tune(tmp_path / "base", [tmp_path / "demos" / "frames"], tmp_path / "run", options)
    assert load_checkpoint(folder).preprocessor.center_crop_area == 0.9
