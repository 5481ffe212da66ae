"""What the trainer compares: whole rollouts with recorded tokens; cached reference values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from grape_training.tpo_gradient import Preference, micro_batches


@dataclass(frozen=True)
class Rollout:
    """One whole episode of T steps for scoring.

    ``images`` (T, s, s, 3) uint8 are cropped and resized for the model and stay uint8 until used;
    ``token_ids`` (T, 7) int64 are the ones the policy emitted; ``prompt_ids`` the instruction's tokens.
    """

    episode_id: str
    images: np.ndarray
    prompt_ids: tuple[int, ...]
    token_ids: np.ndarray

    @property
    def steps(self) -> int:
        """Number of actions T."""
        return len(self.token_ids)

    def content_hash(self) -> str:
        """Return the SHA-256 (hex) of everything the log-probabilities depend on."""
        digest = hashlib.sha256(repr((self.images.shape, self.prompt_ids)).encode())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        digest.update(np.ascontiguousarray(self.token_ids).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Comparison:
    """What one term of the loss is about: rollouts of one task from one initial state, and who is better.

    Without ``preferences`` it is a single rollout to imitate. ``step_weights``: (T,) float64 per rollout;
    None: all steps count alike.
    """

    rollouts: tuple[Rollout, ...]
    preferences: tuple[Preference, ...] = ()
    step_weights: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class RolloutPair:
    """Two rollouts of one task from one initial state; the first is preferred."""

    chosen: Rollout
    rejected: Rollout

    def comparison(self) -> Comparison:
        """Return the pair in the general form."""
        return Comparison((self.chosen, self.rejected), (Preference(0, 1),))


def as_comparisons(data: Sequence[RolloutPair | Comparison]) -> list[Comparison]:
    """Return ``data`` in the general form."""
    return [item.comparison() if isinstance(item, RolloutPair) else item for item in data]


def pairs_hash(data: Sequence[RolloutPair | Comparison]) -> str:
    """Return one SHA-256 (hex) over everything that is compared, in order."""
    comparisons = as_comparisons(data)
    hashes = {r.episode_id: r.content_hash() for item in comparisons for r in item.rollouts}
    digest = hashlib.sha256()
    for item in comparisons:
        digest.update(repr(([hashes[r.episode_id] for r in item.rollouts], item.preferences)).encode())
        for weights in item.step_weights or ():
            digest.update(np.asarray(weights, np.float64).tobytes())
    return digest.hexdigest()


class ReferenceCache:
    """Per-step reference log-probabilities on disk, one safetensors file per rollout.

    The key covers the rollout's content, the reference model and the micro-batch size: the same kernels on
    the same shapes make the first margin exactly 0.
    """

    def __init__(self, folder: Path, model_hash: str, micro_batch: int) -> None:
        self.folder = folder
        self.model_hash = model_hash
        self.micro_batch = micro_batch

    def _path(self, rollout: Rollout) -> Path:
        text = f"{rollout.content_hash()} {self.model_hash} {self.micro_batch}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def get(self, rollout: Rollout) -> np.ndarray | None:
        """Return the stored values (T,) float64; None if absent or damaged (they are then computed anew)."""
        try:
            values = load_file(self._path(rollout))["log_probabilities"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        return values if values.shape == (rollout.steps,) else None

    def put(self, rollout: Rollout, values: np.ndarray) -> None:
        """Store ``values`` (T,) float64 atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(rollout)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file({"log_probabilities": values}, temporary)
        temporary.replace(path)


def reference_log_probabilities(
    rollouts: Iterable[Rollout],
    log_probabilities: Callable[[Rollout, int, int], np.ndarray],
    cache: ReferenceCache,
) -> dict[str, np.ndarray]:
    """Return ``{episode_id: (T,) float64}``; each rollout is computed once and then read from ``cache``.

    ``log_probabilities(rollout, start, stop)`` gives the reference's values of one micro-batch of steps.
    """
    found: dict[str, np.ndarray] = {}
    for rollout in rollouts:
        values = cache.get(rollout)
        if values is None:
            parts = micro_batches(rollout.steps, cache.micro_batch)
            values = np.concatenate([log_probabilities(rollout, *part) for part in parts])
            cache.put(rollout, values)
        found[rollout.episode_id] = values
    return found
