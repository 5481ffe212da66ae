"""What pre-training and fine-tuning share: the model's parts, their optimisation, their checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from grape_policy.vla.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from grape_policy.vla.config import VlaConfig, small_config
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.tokenizer import VlaTokenizer
from safetensors.torch import load_file, save_file
from torch import nn

from grape_training.batches import Batch, Sampler, SamplerOptions
from grape_training.files import TRAINING_CURVE, read_json_lines, write_text
from grape_training.frames import Frames
from grape_training.objective import AuxiliaryHeads, LossOptions, losses, packed_forward
from grape_training.optimisation import CURVE, Loop, Losses, ScheduleOptions
from grape_training.prompts import small_tokenizer

STATISTICS_KEY = "grape_sim"
IMAGE_SIZE = 112
HEADS = "auxiliary.safetensors"  # beside the checkpoint of a pre-trained model, never shipped
MODEL_NAME = "grape-small"


class Learner(nn.Module):
    """The model and its auxiliary heads, as one module for the optimiser."""

    def __init__(self, model: OpenVla) -> None:
        super().__init__()
        self.model = model
        self.heads = AuxiliaryHeads(model.config)


@dataclass
class Parts:
    """A learner with everything that turns frames into batches and weights into a checkpoint folder."""

    learner: Learner
    tokenizer: VlaTokenizer
    preprocessor: Preprocessor
    statistics: ActionStatistics

    @property
    def config(self) -> VlaConfig:
        """The model's configuration."""
        return self.learner.model.config


def new_parts(statistics: ActionStatistics, seed: int, config: VlaConfig | None = None) -> Parts:
    """Build an untrained small model (or one of ``config``) with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    config = config or shipped_config(len(tokenizer))
    preprocessor = Preprocessor(image_size=config.towers[0].image_size)
    return Parts(Learner(OpenVla(config)), tokenizer, preprocessor, statistics)


def shipped_config(text_tokens: int) -> VlaConfig:
    """Return the sizes of the shipped model: the second tower is smaller, which saves time."""
    config = small_config(
        text_tokens, name=MODEL_NAME, image_size=IMAGE_SIZE, hidden_size=128, stem="convolution"
    )
    second = replace(config.towers[1], width=64, depth=3, heads=2, mlp_hidden=256)
    return replace(config, towers=(config.towers[0], second))


def parts_from(folder: Path) -> Parts:
    """Load a checkpoint folder to train it further; heads start anew if they are not beside it."""
    checkpoint: Checkpoint = load_checkpoint(folder)
    statistics = checkpoint.statistics[STATISTICS_KEY]
    learner = Learner(checkpoint.model)
    if (folder / HEADS).exists():
        learner.heads.load_state_dict(load_file(folder / HEADS))
    return Parts(learner.train(), checkpoint.tokenizer, checkpoint.preprocessor, statistics)


def write_parts(parts: Parts, folder: Path, keep_heads: bool) -> str:
    """Write a checkpoint folder and return its version."""
    entries = {STATISTICS_KEY: parts.statistics}
    version = save_checkpoint(folder, parts.learner.model, parts.tokenizer, entries, parts.preprocessor)
    if keep_heads:
        save_file(parts.learner.heads.state_dict(), folder / HEADS)
    return version


def keep_curve(run: Path, checkpoint: Path, stage: str, base: Path | None = None) -> None:
    """Put the curve of ``run`` into its ``checkpoint``, after the one that came with ``base``.

    So a checkpoint says how all of it was trained: one line per measured step, with its ``stage``.
    """
    earlier = read_json_lines(base / TRAINING_CURVE) if base and (base / TRAINING_CURVE).exists() else []
    rows = [*earlier, *({"stage": stage, **row} for row in read_json_lines(run / CURVE))]
    write_text(checkpoint / TRAINING_CURVE, "".join(json.dumps(row) + "\n" for row in rows))


def sampler_of(parts: Parts, frames: Frames, options: SamplerOptions) -> Sampler:
    """Return a sampler of ``frames`` for this model."""
    return Sampler(frames, parts.config, parts.tokenizer, parts.preprocessor, parts.statistics, options)


class BatchSource(Protocol):
    """Anything that gives the batch of a step."""

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``."""
        ...


def optimise(
    parts: Parts,
    sampler: BatchSource,
    folder: Path,
    loop_options: ScheduleOptions,
    loss_options: LossOptions,
    name: str,
) -> list[dict[str, float]]:
    """Train ``parts`` in place (resuming from ``folder``) and return the curve of this run."""
    loop = Loop(folder, parts.learner, loop_options)

    def losses_at(step: int) -> Losses:
        batch = sampler.batch(step)
        forward = packed_forward(parts.learner.model, batch)
        return losses(forward, parts.learner.heads, batch, parts.config, loss_options)

    return loop.run(losses_at, name)


def set_threads(threads: int) -> None:
    """Use ``threads`` cores and let idle ones sleep: spinning threads steal time from others."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    torch.set_num_threads(threads)
