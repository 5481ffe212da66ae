"""Preference pairs inside one (task, initial state), and their Parquet table."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grape_preference.rewards import DEFAULT_PRESET, rewards
from grape_preference.scoring import Score


@dataclass(frozen=True)
class Pair:
    """One preference: episode ``chosen`` over ``rejected``, from the same task and initial state.

    The hashes are those of the data files, so that a trainer can tell whether they are still the same.
    ``initial_state_distance`` (metres) is 0 but for pairs of the fallback, whose rejected episode began in
    ``rejected_initial_state_id``.
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
    rejected_initial_state_id: str
    initial_state_distance: float


_SCHEMA = pa.schema(
    [
        (field.name, {"str": pa.string(), "float": pa.float64(), "bool": pa.bool_()}[str(field.type)])
        for field in fields(Pair)
    ]
)
_FALLBACK_COLUMNS = _SCHEMA.names[-2:]


def make_pairs(
    scores: Iterable[Score],
    preset: str = DEFAULT_PRESET,
    *,
    top: int = 1,
    margin: float = 0.0,
    reject_greedy: bool = False,
    among_successes: bool = False,
    balance: bool = True,
    max_per_task: int | None = None,
    fallback_distance: float | None = None,
) -> list[Pair]:
    """Pair the ``top`` best with the ``top`` worst of every group; top 1 is best-worst.

    Args:
        scores: of any number of groups; those whose verdict is not "ok" are left out.
        preset: which reward ranks them, see ``rewards.PRESETS``.
        top: m of top-m x bottom-m; a group of n gives at most (n // 2) ** 2 pairs.
        margin: the least difference of rewards (strictly greater) that makes a pair.
        reject_greedy: count a greedy rollout (temperature 0) that failed as the worst of its group, so that
            it is never chosen: it is what the policy does when it is used, so it is what there is to unlearn.
        among_successes: pair the successes of a group among themselves too: how to succeed, not only whether.
        balance: keep the same number of pairs for every task that has any (those with the largest margins).
        max_per_task: keep at most so many pairs per task.
        fallback_distance: off when None. Else a group that gave no pair is joined with the nearest other such
            group of its task in which no keypoint began farther away than this (metres). Those pairs compare
            different initial states, which the method does not; every one says so.

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
    make = partial(_group_pairs, preset=preset, top=top, margin=margin, reject_greedy=reject_greedy)
    found = {key: make(groups[key]) for key in sorted(groups)}
    if among_successes:
        for key, group in found.items():
            known = {(pair.chosen, pair.rejected) for pair in group}
            more = make([score for score in groups[key] if score.i_success])
            group += [pair for pair in more if (pair.chosen, pair.rejected) not in known]
    pairs = [pair for group in found.values() for pair in group]
    if fallback_distance is not None:
        lonely = [groups[key] for key, group in found.items() if not group]
        for joined in _joined(lonely, fallback_distance):
            pairs += make(joined)
    return _keep_per_task(pairs, balance, max_per_task)


def start_distance(a: Score, b: Score) -> float:
    """Return the largest distance (m) between where a keypoint began in both; inf if that is not known."""
    if not a.start or a.start.keys() != b.start.keys():
        return math.inf
    return max(math.dist(a.start[name], b.start[name]) for name in a.start)


def _joined(groups: Sequence[list[Score]], limit: float) -> list[list[Score]]:
    """Join groups of one task two by two, nearest first, as long as they began within ``limit`` metres."""
    candidates = sorted(
        (start_distance(groups[i][0], groups[j][0]), i, j)
        for j in range(len(groups))
        for i in range(j)
        if groups[i][0].task == groups[j][0].task
    )
    free, joined = set(range(len(groups))), []
    for distance, i, j in candidates:
        if distance <= limit and {i, j} <= free:
            free -= {i, j}
            joined.append(groups[i] + groups[j])
    return joined


def _group_pairs(
    scores: Sequence[Score], preset: str, top: int, margin: float, reject_greedy: bool
) -> list[Pair]:
    values = dict(zip([s.episode_id for s in scores], rewards(scores, preset), strict=True))
    if len(values) != len(scores):
        raise ValueError(f"two scores of one episode in group {scores[0].task}, {scores[0].initial_state_id}")
    ranked = sorted(
        ((values[s.episode_id], s) for s in scores), key=lambda item: (-item[0], item[1].episode_id)
    )
    if reject_greedy:
        ranked.sort(key=lambda item: item[1].temperature == 0.0 and not item[1].i_success)
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
    same_state = chosen.initial_state_id == rejected.initial_state_id
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
        rejected_initial_state_id=rejected.initial_state_id,
        initial_state_distance=0.0 if same_state else start_distance(chosen, rejected),
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


def save_pairs(pairs: Sequence[Pair], path: Path | str, options: dict[str, Any] | None = None) -> Path:
    """Write the pairs as a Parquet table, atomically; return its path.

    ``options``: how they were made (plain data), kept as JSON in the table's metadata under ``grape``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _SCHEMA.with_metadata({"grape": json.dumps(options or {}, sort_keys=True)})
    table = pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=schema)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
    return path


def load_pairs(path: Path | str) -> list[Pair]:
    """Read a table of pairs; raise ValueError when a column is missing or of another type."""
    table = pq.read_table(Path(path))
    if table.schema.names == _SCHEMA.names[: -len(_FALLBACK_COLUMNS)]:  # written before there was a fallback
        states = table["initial_state_id"]
        table = table.append_column(_FALLBACK_COLUMNS[0], states)
        table = table.append_column(_FALLBACK_COLUMNS[1], pa.array([0.0] * len(states), pa.float64()))
    if not table.schema.equals(_SCHEMA, check_metadata=False):
        raise ValueError(
            f"{path}: not a table of pairs (columns {table.column_names}); write it with grape score"
        )
    return [Pair(**row) for row in table.to_pylist()]
