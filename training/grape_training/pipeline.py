"""From episodes on disk to a registered candidate: select rollouts, train, register."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from grape_training.errors import BadInputError
from grape_training.registry import Registry, folder_kind
from grape_training.tpo import TpoResult, check_options, train_tpo
from grape_training.tpo_data import Comparison, Rollout
from grape_training.tpo_options import TpoOptions
from grape_training.tpo_scorer import active_dimensions
from grape_training.tpo_sources import Selection, read_scores, select, stage_weights
from grape_training.tpo_sources import read_pairs as read_pairs

if TYPE_CHECKING:
    from grape_policy.vla.checkpoint import Checkpoint
    from grape_preference.scoring import Score


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
    scores_path: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    progress: bool = True,
) -> TpoResult:
    """Train an adapter on top of the policy ``source`` by ``options.method``.

    ``pairs_path``: table of pairs; ``scores_path``: ``scores.json`` of the same rollouts, beside it unless
    given; see ``tpo_sources.select`` for which method reads what. A policy that is an adapter itself is
    merged first, and written to ``<output>/base``. On one thread a resumed run gives the same bits; more
    threads pay on an idle machine with a large model.

    Raises:
        BadInputError: the policy, the pairs, the scores, an option or an episode cannot be used.
    """
    torch.set_num_threads(threads)
    check_options(options)
    checkpoint, base = load_base(source, output)
    scores_path = scores_path or pairs_path.with_name("scores.json")
    selections = select(options, pairs_path, scores_path, episodes)
    scores = {s.episode_id: s for s in read_scores(scores_path)[0]} if options.stage_weighted else {}
    rollouts = load_rollouts([name for item in selections for name in item.episodes], episodes, checkpoint)
    return train_tpo(
        checkpoint.model,
        checkpoint.preprocessor,
        [_comparison(item, rollouts, scores) for item in selections],
        output,
        options,
        checkpoint=base,
        model_hash=checkpoint.version,
        active=active_dimensions(checkpoint.statistics) if options.skip_constant else None,
        device=device,
        progress=progress,
    )


def _comparison(item: Selection, rollouts: dict[str, Rollout], scores: dict[str, Score]) -> Comparison:
    """Return the selection with its rollouts, weighted by stage if there are ``scores``."""
    weights = stage_weights(*(_score(scores, name) for name in item.episodes)) if scores else None
    return Comparison(tuple(rollouts[name] for name in item.episodes), item.preferences, weights)


def _score(scores: dict[str, Score], name: str) -> Score:
    if name not in scores:
        raise BadInputError(
            f"episode {name} is in the pairs but not in the scores", "Score the episodes again"
        )
    return scores[name]


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
