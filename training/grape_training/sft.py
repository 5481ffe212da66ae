"""Supervised fine-tuning on demonstrations: OpenVLA's loss on 7 action tokens and the end token.

Every frame is shown with the instructions of both tasks whose objects are on the table, each with the
expert's own answer (the expert is stateless, so both answers exist in every state), and with all wordings
of each instruction. ``mix`` adds rendered scenes to every batch, so that what pre-training taught is not
forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grape_training.augmentation import CROP_AREA, OPENVLA
from grape_training.batches import Batch, Sampler, SamplerOptions
from grape_training.frames import Frames, concatenate, read_frames
from grape_training.learner import keep_curve, optimise, parts_from, sampler_of, write_parts
from grape_training.objective import LossOptions
from grape_training.optimisation import ScheduleOptions
from grape_training.pretrain import action_statistics

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class SftOptions:
    """Options of ``grape train sft``. ``mix``: share of rendered scenes in each batch."""

    loop: ScheduleOptions = field(
        default_factory=lambda: ScheduleOptions(steps=800, learning_rate=5e-4, decay=600)
    )
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    mix: float = 0.5


def fine_tune(
    base: Path, data: Sequence[Path], folder: Path, options: SftOptions, scenes: Path | None = None
) -> Path:
    """Train the checkpoint ``base`` on the frames below the folders ``data``; return the new checkpoint.

    The statistics are measured on the first of ``data``: a dimension that demonstrations never use (here the
    rotations, as the gripper stays upright) is then always 0. ``data`` holds demonstrations and, if there
    are any, relabelled rollouts. The run is resumable in ``folder``.

    Raises:
        BadInputError: there are no frames, or ``folder`` holds the state of another model.
    """
    parts, frames = parts_from(base), concatenate([read_frames(root) for root in data])
    parts.statistics = action_statistics(read_frames(data[0]))
    if options.sampler.augmentation == OPENVLA:
        parts.preprocessor = replace(parts.preprocessor, center_crop_area=CROP_AREA)
    sampler = sampler_of(parts, frames, options.sampler)
    rendered = read_frames(scenes) if scenes is not None else None
    optimise(parts, MixedSampler(sampler, rendered, options), folder, options.loop, options.loss, "sft")
    write_parts(parts, folder / CHECKPOINT, keep_heads=False)
    keep_curve(folder, folder / CHECKPOINT, "fine-tuning", base)
    return folder / CHECKPOINT


class MixedSampler:
    """Draws each batch from demonstrations and, for the share ``mix`` of its rows, from rendered scenes."""

    def __init__(self, sampler: Sampler, rendered: Frames | None, options: SftOptions) -> None:
        self._sampler, self._rendered = sampler, rendered
        size = options.sampler.batch_size
        self._extra = round(size * options.mix) if rendered is not None else 0
        self._own, self._seed = size - self._extra, options.sampler.seed

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``: the same for the same seed, step and frames."""
        rng = np.random.default_rng([self._seed, 1, step])
        frames = self._sampler.frames.take(rng.integers(len(self._sampler.frames), size=self._own))
        if self._rendered is not None:
            extra = self._rendered.take(rng.integers(len(self._rendered), size=self._extra))
            frames = concatenate([frames, extra])
        return self._sampler.assemble(frames, rng)
