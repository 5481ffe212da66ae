"""Preference pairs inside one (task, initial state), and their Parquet table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from grape_preference.rewards import DEFAULT_PRESET, gcpg
from grape_preference.scoring import Score


@dataclass(frozen=True)
class Pair:
    """One preference: episode ``chosen`` over ``rejected``, from the same task and initial state.

    The hashes are those of the data files, so that a trainer can tell whether they are still the same.
    """

    task: str
    initial_state_id: str
    chosen: str
    rejected: str
    margin: float
    chosen_reward: float
    rejected_reward: float
    chosen_success: bool
    rejected_success: bool
    chosen_r_ext: float
    rejected_r_ext: float
    chosen_sha256: str
    rejected_sha256: str
    preset: str


_SCHEMA = pa.schema(
    [
        (field.name, {"str": pa.string(), "float": pa.float64(), "bool": pa.bool_()}[str(field.type)])
        for field in fields(Pair)
    ]
)


def make_pairs(
    scores: Iterable[Score],
    preset: str = DEFAULT_PRESET,
    *,
    top: int = 1,
    margin: float = 0.0,
    balance: bool = True,
    max_per_task: int | None = None,
) -> list[Pair]:
    """Pair the ``top`` best with the ``top`` worst of every group; top 1 is best-worst.

    Args:
        scores: of any number of groups; those whose verdict is not "ok" are left out.
        preset: which reward ranks them, see ``rewards.PRESETS``.
        top: m of top-m x bottom-m; a group of n gives at most (n // 2) ** 2 pairs.
        margin: the least difference of rewards (strictly greater) that makes a pair.
        balance: keep the same number of pairs for every task that has any (those with the largest margins).
        max_per_task: keep at most so many pairs per task.

    Returns:
        The pairs sorted by task, initial state and descending margin: the same for any order of ``scores``.
    """
    if top < 1 or margin < 0.0:
        raise ValueError(f"top must be at least 1 and margin at least 0, not {top} and {margin}")
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    # One order for all: even the last bit of a standardised reward depends on the order of its sum.
    for score in sorted(scores, key=lambda score: score.episode_id):
        if score.verdict == "ok":
            groups[score.task, score.initial_state_id].append(score)
    pairs = [pair for key in sorted(groups) for pair in _group_pairs(groups[key], preset, top, margin)]
    return _keep_per_task(pairs, balance, max_per_task)


def _group_pairs(scores: Sequence[Score], preset: str, top: int, margin: float) -> list[Pair]:
    rewards = dict(zip([s.episode_id for s in scores], gcpg(scores, preset), strict=True))
    if len(rewards) != len(scores):
        raise ValueError(f"two scores of one episode in group {scores[0].task}, {scores[0].initial_state_id}")
    ranked = sorted(
        ((rewards[s.episode_id] or 0.0, s) for s in scores), key=lambda item: (-item[0], item[1].episode_id)
    )
    count = min(top, len(ranked) // 2)
    pairs = [
        _pair(better, worse, preset)
        for better in ranked[:count]
        for worse in ranked[len(ranked) - count :]
        if better[0] - worse[0] > margin
    ]
    return sorted(pairs, key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))


def _pair(better: tuple[float, Score], worse: tuple[float, Score], preset: str) -> Pair:
    (high, chosen), (low, rejected) = better, worse
    if (chosen.task, chosen.initial_state_id) != (rejected.task, rejected.initial_state_id):
        raise ValueError(f"{chosen.episode_id} and {rejected.episode_id} do not share task and initial state")
    return Pair(
        task=chosen.task,
        initial_state_id=chosen.initial_state_id,
        chosen=chosen.episode_id,
        rejected=rejected.episode_id,
        margin=high - low,
        chosen_reward=high,
        rejected_reward=low,
        chosen_success=bool(chosen.i_success),
        rejected_success=bool(rejected.i_success),
        chosen_r_ext=chosen.r_ext or 0.0,
        rejected_r_ext=rejected.r_ext or 0.0,
        chosen_sha256=chosen.episode_sha256,
        rejected_sha256=rejected.episode_sha256,
        preset=preset,
    )


def _keep_per_task(pairs: list[Pair], balance: bool, max_per_task: int | None) -> list[Pair]:
    by_task: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_task[pair.task].append(pair)
    limits = [len(group) for group in by_task.values()] if balance else []
    limits += [max_per_task] if max_per_task is not None else []
    for group in by_task.values():
        group.sort(key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))
        del group[min(limits, default=len(group)) :]
    kept = [pair for group in by_task.values() for pair in group]
    return sorted(kept, key=lambda p: (p.task, p.initial_state_id, -p.margin, p.chosen, p.rejected))


def save_pairs(pairs: Sequence[Pair], path: Path | str) -> Path:
    """Write the pairs as a Parquet table, atomically; return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=_SCHEMA)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
    return path


def load_pairs(path: Path | str) -> list[Pair]:
    """Read a table of pairs; raise ValueError when a column is missing or of another type."""
    table = pq.read_table(Path(path))
    if not table.schema.equals(_SCHEMA, check_metadata=False):
        raise ValueError(
            f"{path}: not a table of pairs (columns {table.column_names}); write it with grape score"
        )
    return [Pair(**row) for row in table.to_pylist()]
