"""Batches: frames, several prompts per frame and their targets, drawn as a pure function of (seed, step).

A frame is asked two or more questions with different answers (counterfactual instructions), so that the
image alone never predicts the answer. All questions of a frame share one vision pass and one decoder
sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from grape_policy.vla.actions import ActionTokenizer
from grape_policy.vla.config import VlaConfig
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.tokenizer import VlaTokenizer
from grape_sim.tasks import TASKS
from numpy.typing import NDArray
from torch import Tensor

from grape_training.augmentation import (
    AUGMENTATIONS,
    COLOUR,
    OPENVLA,
    crop,
    draw_windows,
    jitter,
    recolour,
    whole_windows,
)
from grape_training.errors import BadInputError
from grape_training.frames import OBJECTS, TASK_NAMES, Frames
from grape_training.prompts import Kind, PromptBook, wordings

GROUNDING_RANGE = 0.4  # m: displacements are clipped to this and spread over the bins
CENTRE = np.array([0.30, 0.0, 0.05], np.float32)  # m, roughly the middle of the workspace
SCALE = 0.1  # m: one unit of the auxiliary position targets
_SOURCE = np.array([OBJECTS.index(TASKS[name].source) for name in TASK_NAMES])
_TARGET = np.array([OBJECTS.index(TASKS[name].target) for name in TASK_NAMES])


@dataclass(frozen=True)
class SamplerOptions:
    """How batches are drawn.

    ``grounding``: share of grounding questions among the prompts; ``augmentation``: one of
    ``augmentation.AUGMENTATIONS``; ``jitter``: strength of ``colour``.
    """

    batch_size: int = 32
    prompts: int = 2
    grounding: float = 0.0
    augmentation: str = COLOUR
    jitter: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise BadInputError(f"unknown augmentation {self.augmentation!r}", f"Choose one of {known}")


@dataclass(frozen=True)
class Batch:
    """B frames with K prompts each; T = 8 tokens (7 and the end token).

    pixels (B, 6, s, s); ids (B, K, L): prompt without BOS, then the answer, padded on the right; lengths
    (B, K) of the prompts without BOS; tokens (B, K, T); values (B, K, 7) the answers in [-1, 1]; geometry
    (B, K, 9): gripper, source - gripper, target - gripper in units of ``SCALE``; held (B, K) 1 where the
    source is in the gripper; words (B, K, 2): where in ``ids`` source and target are named, and named (B,
    K, 2): which of ``OBJECTS`` they are; classes (B, 28, 28); objects (B, 8, 3) and gripper (B, 3) in units
    of ``SCALE`` around ``CENTRE``; windows (B, 3): which part of the image is shown.
    """

    pixels: Tensor
    bos: int
    ids: Tensor
    lengths: Tensor
    words: Tensor
    named: Tensor
    tokens: Tensor
    values: Tensor
    geometry: Tensor
    held: Tensor
    classes: Tensor
    objects: Tensor
    gripper: Tensor
    windows: Tensor


class Sampler:
    """Draws batches from frames; ``frames`` may be replaced by a longer data set between two steps."""

    def __init__(
        self,
        frames: Frames,
        config: VlaConfig,
        tokenizer: VlaTokenizer,
        preprocessor: Preprocessor,
        statistics: ActionStatistics,
        options: SamplerOptions,
    ) -> None:
        self.frames, self.options = frames, options
        self._statistics, self._preprocessor = statistics, preprocessor
        self._book, self._actions = PromptBook(tokenizer), ActionTokenizer(config)
        self._eos, self._pad = config.text.eos_token_id, config.text.pad_token_id

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``: the same for the same seed, step and frames."""
        rng = np.random.default_rng([self.options.seed, step])
        rows = rng.integers(len(self.frames), size=self.options.batch_size)
        return self.assemble(self.frames.take(rows), rng)

    def assemble(self, frames: Frames, rng: np.random.Generator) -> Batch:
        """Return ``frames`` with prompts and augmentation drawn from ``rng``."""
        tasks = np.stack([self._tasks(present, rng) for present in ~np.isnan(frames.actions[:, :, 0])])
        kinds = np.where(rng.random(tasks.shape) < self.options.grounding, "grounding", "action")
        geometry, held = _geometry(frames, tasks)
        rows = np.arange(len(frames))[:, None]
        values = np.where(
            (kinds == "action")[..., None],
            self._statistics.normalise(frames.actions[rows, tasks].astype(np.float64)),
            _grounding_values(geometry, held),
        )
        tokens = self._tokens(values)
        ids, lengths = self._ids(tasks, kinds, tokens, rng)
        named = np.stack([_SOURCE[tasks], _TARGET[tasks]], axis=2)
        pixels, classes, windows = self._augmented(frames, rng)
        scene = (frames.objects - CENTRE) / SCALE, (frames.gripper - CENTRE) / SCALE
        as_tensors = (torch.from_numpy(np.asarray(a, np.float32)) for a in (values, geometry, held, *scene))
        values_t, geometry_t, held_t, objects_t, gripper_t = as_tensors
        return Batch(
            pixels, 1, ids, lengths, self._words(ids, named), torch.from_numpy(named),
            torch.from_numpy(tokens), values_t, geometry_t, held_t, classes, objects_t, gripper_t, windows,
        )  # fmt: skip

    def _augmented(self, frames: Frames, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixel values, pixel classes and the windows that are shown of the frames' images."""
        windows, strength = whole_windows(len(frames)), self.options.jitter
        if self.options.augmentation == OPENVLA:
            windows, strength = draw_windows(len(frames), rng), 0.0
            frames = crop(frames, windows)
            frames = replace(frames, images=recolour(frames.images, rng))
        pixels = jitter(self._preprocessor.normalise(frames.images), strength, rng)
        return pixels, torch.from_numpy(frames.classes.astype(np.int64)), torch.from_numpy(windows)

    def _tasks(self, present: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose K of the tasks shown in a frame, all different as long as there are enough."""
        shown = rng.permutation(np.flatnonzero(present))
        return np.resize(shown, self.options.prompts)

    def _tokens(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return (B, K, 8): the answers as action tokens, and the end token."""
        tokens = self._actions.encode(values)
        return np.concatenate([tokens, np.full((*tokens.shape[:2], 1), self._eos)], axis=2)

    def _ids(
        self,
        tasks: NDArray[np.int64],
        kinds: NDArray[np.str_],
        tokens: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, K, L) decoder inputs behind BOS and patches, and the prompt lengths (B, K)."""
        prompts = []
        for task, kind in zip(tasks.flat, kinds.flat, strict=True):
            texts = wordings(TASK_NAMES[task])
            label: Kind = "grounding" if kind == "grounding" else "action"
            prompts.append(self._book.ids(label, texts[rng.integers(len(texts))])[1:])
        lengths = np.array([len(prompt) for prompt in prompts])
        answers = tokens.reshape(len(prompts), -1)[:, :-1]
        ids = np.full((len(prompts), lengths.max() + answers.shape[1]), self._pad)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + answers.shape[1]] = answers[row]
        return torch.from_numpy(ids).view(*tasks.shape, -1), torch.from_numpy(lengths).view(*tasks.shape)

    def _words(self, ids: Tensor, named: NDArray[np.int64]) -> Tensor:
        """Return the index (B, K, 2) in ``ids`` of the word that names each object."""
        wanted = torch.from_numpy(self._book.name_ids[named])
        return (ids[:, :, None] == wanted[..., None]).int().argmax(-1)


def _geometry(frames: Frames, tasks: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return gripper, source - gripper, target - gripper (B, K, 9), and whether source is held."""
    rows = np.arange(len(frames))[:, None]
    gripper = np.broadcast_to(frames.gripper[:, None], (*tasks.shape, 3))
    source = frames.objects[rows, _SOURCE[tasks]] - gripper
    target = frames.objects[rows, _TARGET[tasks]] - gripper
    geometry = np.concatenate([gripper - CENTRE, source, target], axis=2) / SCALE
    return geometry, frames.held[:, None] == _SOURCE[tasks]


def _grounding_values(geometry: NDArray[np.floating], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the answer to a grounding question (B, K, 7) in [-1, 1]: displacements, held or not."""
    displacements = np.clip(geometry[..., 3:] * SCALE / GROUNDING_RANGE, -1.0, 1.0)
    return np.concatenate([displacements, np.where(held, 1.0, -1.0)[..., None]], axis=2)
