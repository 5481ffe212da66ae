"""The judge that sees only keypoints and gripper, against the simulator's verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from grape_preference.folder import score_recorded
from grape_preference.scoring import Score

from grape_training.bench_rollouts import Wanted
from grape_training.statistics import proportion
from grape_training.truth import Rollout

CELLS = ("true_positive", "false_positive", "false_negative", "true_negative", "undecided")


def measure_judge(rollouts: Iterable[tuple[Wanted, Rollout]]) -> dict[str, Any]:
    """Return agreement with the simulator (95 % Wilson interval) and the confusion table, also per task.

    An episode that cannot be judged (its score has another verdict than "ok") counts as a disagreement.
    """
    tables: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(CELLS, 0))
    wrong = []
    for item, rollout in rollouts:
        score, truth = score_recorded(rollout.episode)[0], rollout.episode.manifest.success
        cell = confusion_cell(score, truth)
        tables[score.task][cell] += 1
        if not cell.startswith("true"):
            wrong.append({"episode": item.name, "was": cell, "truth": rollout.episode.manifest.reason})
    total = {cell: sum(table[cell] for table in tables.values()) for cell in CELLS}
    return {
        **_agreement(total),
        "confusion": total,
        "tasks": {name: {**_agreement(t), "confusion": t} for name, t in sorted(tables.items())},
        "disagreements": wrong,
    }


def confusion_cell(score: Score, truth: bool) -> str:
    """Return which cell of the confusion table an episode falls into."""
    if score.i_success is None:
        return "undecided"
    agrees = bool(score.i_success) == truth
    return f"{'true' if agrees else 'false'}_{'positive' if score.i_success else 'negative'}"


def _agreement(table: dict[str, int]) -> dict[str, Any]:
    right, episodes = table["true_positive"] + table["true_negative"], sum(table.values())
    interval = proportion([True] * right + [False] * (episodes - right))
    return {
        "episodes": episodes,
        "agreement": right / episodes if episodes else None,
        "agreement_low": interval.low,
        "agreement_high": interval.high,
    }
