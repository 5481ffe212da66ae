"""The policy: camera images and instructions in, actions with their tokens and log-probabilities out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from grape_policy.loop_timer import Mark, unmarked
from grape_policy.vla.actions import ActionTokenizer
from grape_policy.vla.checkpoint import Checkpoint, load_checkpoint
from grape_policy.vla.decoder import ActionDecoder
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.runtime import CPU, Runtime
from grape_policy.vla.statistics import StatisticsError, choose_statistics

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class ActionBatch:
    """Actions of one call, one row per image, and how long the call took."""

    actions: NDArray[np.float64]  # (B, 7) m, rad, gripper 0 closed .. 1 open
    token_ids: NDArray[np.int64]  # (B, 7)
    log_probabilities: NDArray[np.float32]  # (B, 7) natural log, full-vocabulary softmax at temperature 1
    seconds: float  # image in to action out


class VlaPolicy:
    """A loaded checkpoint that acts. One instance serves one thread."""

    def __init__(self, checkpoint: Checkpoint, statistics_key: str | None = None) -> None:
        """Wrap a loaded checkpoint.

        Raises:
            StatisticsError: the checkpoint has no statistics under ``statistics_key``.
        """
        self.checkpoint = checkpoint
        self.version = checkpoint.version
        self.statistics = choose_statistics(checkpoint.statistics, statistics_key)
        self._actions = ActionTokenizer(checkpoint.config)
        self._decoder = ActionDecoder(checkpoint.model)
        self._prompt = lru_cache(maxsize=256)(checkpoint.tokenizer.prompt_ids)

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path | str,
        adapter: Path | str | None = None,
        statistics_key: str | None = None,
        runtime: Runtime = CPU,
    ) -> VlaPolicy:
        """Load a checkpoint folder, with an adapter folder merged into it when given.

        Raises:
            CheckpointError: the folder was refused; the message lists all that is wrong with it.
        """
        checkpoint = load_checkpoint(folder, adapter, runtime)
        try:
            policy = cls(checkpoint, statistics_key)
        except StatisticsError as error:
            raise CheckpointError(Path(folder), [str(error)]) from error
        if runtime.compile:
            policy._decoder.compile_vision()
        return policy

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.checkpoint.model.projector.fc1.weight.device

    def prompt_ids(self, instructions: Sequence[str]) -> list[list[int]]:
        """Return the prompt of each instruction, as the model reads it."""
        return [self._prompt(instruction) for instruction in instructions]

    def act(
        self,
        images: NDArray[np.uint8],
        instructions: Sequence[str],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        mark: Mark = unmarked,
        forced: Mapping[int, int] | None = None,
    ) -> ActionBatch:
        """Choose one action per camera image.

        Args:
            images: (B, H, W, 3) uint8 RGB, uncropped.
            instructions: B instructions.
            temperature: 0 takes the most likely action tokens, above 0 samples among the action tokens.
            generator: source of the samples, for reproducible ones.
            mark: is told when each section of the work ends.
            forced: token ids by action dimension, for all rows, instead of the model's own.

        Raises:
            ValueError: images or instructions of the wrong shape, type or length, or a bad temperature.
            FloatingPointError: the model gave numbers that are not finite.
        """
        started = time.perf_counter()
        if len(images) != len(instructions) or not len(images):
            raise ValueError(f"{len(images)} images for {len(instructions)} instructions")
        if not 0.0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or above and finite, got {temperature}")
        weight = self.checkpoint.model.projector.fc1.weight
        pixels = self.checkpoint.preprocessor(images).to(weight.device, weight.dtype)
        prompts = self.prompt_ids(instructions)
        mark("preprocess")
        tokens, scores = self._decoder.decode(
            pixels, prompts, temperature, generator, mark=mark, forced=forced
        )
        return self.batch(tokens, scores, started)

    def token_ids(self, action: NDArray[np.float64]) -> list[int]:
        """Return the 7 token ids of an action (7,) m, rad, gripper 0 .. 1; clipped to the statistics."""
        ids: list[int] = self._actions.encode(self.statistics.normalise(action)).tolist()
        return ids

    def batch(self, tokens: torch.Tensor, scores: torch.Tensor, started: float) -> ActionBatch:
        """Turn tokens and log-probabilities (B, 7) of a call that began at ``started`` into actions."""
        token_ids = tokens.cpu().numpy()
        actions = self.statistics.unnormalise(self._actions.decode(token_ids))
        actions[:, 6] = np.clip(actions[:, 6], 0.0, 1.0)
        return ActionBatch(actions, token_ids, scores.cpu().numpy(), time.perf_counter() - started)

    def warm_up(self, height: int = 240, width: int = 320) -> float:
        """Run a few inferences on a grey image, so that the first real one is as fast; return seconds."""
        image = np.full((1, height, width, 3), 127, dtype=np.uint8)
        return [self.act(image, ["warm up"]).seconds for _ in range(WARM_UP_RUNS)][-1]
