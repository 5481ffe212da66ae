"""From episodes on disk to a registered candidate: load pairs, train, register."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from grape_training.errors import BadInputError
from grape_training.registry import Registry, folder_kind
from grape_training.tpo import TpoResult, train_tpo
from grape_training.tpo_data import Rollout, RolloutPair
from grape_training.tpo_options import TpoOptions

if TYPE_CHECKING:
    from grape_policy.vla.checkpoint import Checkpoint
    from grape_preference.pairs import Pair


def read_pairs(path: Path) -> list[Pair]:
    """Read a table of preference pairs.

    Raises:
        BadInputError: the file is missing or is no such table.
    """
    from grape_preference.pairs import load_pairs

    if not path.is_file():
        raise BadInputError(f"{path} does not exist", "Score the episodes first: grape score <episodes>")
    try:
        return load_pairs(path)
    except (ValueError, OSError) as error:
        raise BadInputError(f"{path} is no table of pairs ({error})", "Score the episodes again") from error


def load_rollouts(episode_ids: Iterable[str], root: Path, checkpoint: Checkpoint) -> dict[str, Rollout]:
    """Read episodes below ``root``: recorded token ids, images in this checkpoint's size."""
    from grape_episodes.reader import read_episode

    rollouts = {}
    for episode_id in sorted(set(episode_ids)):
        episode = read_episode(root / episode_id)
        rollouts[episode_id] = Rollout(
            episode_id,
            checkpoint.preprocessor.resize(episode.images[:-1]),
            tuple(checkpoint.tokenizer.prompt_ids(episode.manifest.instruction)),
            np.asarray(episode.token_ids, np.int64),
        )
    return rollouts


def run_tpo(
    source: Path,
    pairs_path: Path,
    episodes: Path,
    output: Path,
    options: TpoOptions,
    *,
    threads: int = 1,
    progress: bool = True,
) -> TpoResult:
    """Train an adapter on top of the policy ``source`` with the pairs of ``pairs_path``.

    A policy that is an adapter itself is merged first, and written to ``<output>/base``. On one thread a
    resumed run gives the same bits; more threads pay on an idle machine with a large model.

    Raises:
        BadInputError: the policy, the pairs or an episode cannot be used.
    """
    torch.set_num_threads(threads)
    checkpoint, base = load_base(source, output)
    table = read_pairs(pairs_path)
    rollouts = load_rollouts(
        [name for pair in table for name in (pair.chosen, pair.rejected)], episodes, checkpoint
    )
    pairs = [RolloutPair(rollouts[pair.chosen], rollouts[pair.rejected]) for pair in table]
    return train_tpo(
        checkpoint.model,
        checkpoint.preprocessor,
        pairs,
        output,
        options,
        checkpoint=base,
        model_hash=checkpoint.version,
        progress=progress,
    )


def load_base(source: Path, output: Path) -> tuple[Checkpoint, Path]:
    """Load the policy ``source``; return it with the folder of a complete checkpoint that equals it."""
    from grape_policy.vla.checkpoint import load_checkpoint, save_checkpoint
    from grape_policy.vla.errors import CheckpointError

    try:
        checkpoint = load_checkpoint(source)
    except CheckpointError as error:
        raise BadInputError(str(error), "Give a folder that `grape train` wrote") from error
    if folder_kind(source) == "checkpoint":
        return checkpoint, source.resolve()
    base = output / "base"
    save_checkpoint(
        base, checkpoint.model, checkpoint.tokenizer, checkpoint.statistics, checkpoint.preprocessor
    )
    return checkpoint, base.resolve()


def register_candidate(
    registry: Registry, name: str, result: TpoResult, base: Path, options: TpoOptions, data: dict[str, object]
) -> str:
    """Put the trained adapter into ``registry``, its base first if need be; return its version."""
    base_version = registry.add(base, "base")
    if registry.current is None:
        registry.start(base_version)
    metrics = {key: getattr(result, key) for key in ("steps", "pairs", "loss", "margin", "accuracy", "kl")}
    return registry.add(
        result.adapter,
        name,
        parents=(base_version,),
        data={"pairs_hash": result.data_hash, "options": asdict(options), **data},
        metrics=metrics,
    )
