"""Pre-training on rendered random scenes: what DINOv2, SigLIP and Prismatic pre-training are to OpenVLA.

The whole model learns to see (classes and positions per patch), to connect words with places (grounding
questions, two different instructions per image from the first step on) and, in part of the prompts, what
the scripted expert would do in the drawn state. No state comes from a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from grape_policy.vla.statistics import ActionStatistics

from grape_training.batches import Batch, Sampler, SamplerOptions
from grape_training.frames import Frames, concatenate, read_frames, read_shard, shard_folders
from grape_training.learner import keep_curve, new_parts, optimise, sampler_of, write_parts
from grape_training.objective import LossOptions
from grape_training.optimisation import ScheduleOptions

CHECKPOINT = "checkpoint"
_REFRESH = 200  # steps between two looks for newly rendered shards


@dataclass(frozen=True)
class PretrainOptions:
    """Options of ``grape train pretrain``."""

    loop: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=6000))
    sampler: SamplerOptions = field(default_factory=lambda: SamplerOptions(grounding=0.3))
    loss: LossOptions = field(default_factory=LossOptions)
    seed: int = 0


def pretrain(scenes: Path, folder: Path, options: PretrainOptions) -> Path:
    """Train a new model on the frames below ``scenes``, resumable in ``folder``; return its checkpoint.

    Shards that are finished while it runs are taken in: start it as soon as the first ones are there. Action
    statistics are measured on the first shard, so that they do not depend on when it was started.
    """
    shards = shard_folders(scenes)
    frames = read_frames(scenes)
    parts = new_parts(action_statistics(read_shard(shards[0])), options.seed)
    sampler = GrowingSampler(sampler_of(parts, frames, options.sampler), scenes, len(shards))
    optimise(parts, sampler, folder, options.loop, options.loss, "pretrain")
    write_parts(parts, folder / CHECKPOINT, keep_heads=True)
    keep_curve(folder, folder / CHECKPOINT, "pre-training")
    return folder / CHECKPOINT


def action_statistics(frames: Frames) -> ActionStatistics:
    """Measure the action percentiles over all tasks' labels of ``frames``."""
    actions = frames.actions.reshape(-1, 7).astype("float64")
    return ActionStatistics.from_actions(actions[np.isfinite(actions).all(axis=1)])


class GrowingSampler:
    """A sampler that takes in new shards now and then."""

    def __init__(self, sampler: Sampler, root: Path, known: int) -> None:
        self._sampler, self._root, self._known = sampler, root, known

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``."""
        if step % _REFRESH == 0:
            self._take_in()
        return self._sampler.batch(step)

    def _take_in(self) -> None:
        new = shard_folders(self._root)[self._known :]
        if new:
            self._sampler.frames = concatenate(
                [self._sampler.frames, *(read_shard(folder) for folder in new)]
            )
            self._known += len(new)
