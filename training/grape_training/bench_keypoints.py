"""Keypoints against the simulator's truth, over the episodes of all suites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from grape_preference.keypoints import track
from grape_preference.stage_scoring import ScoringError

from grape_training.bench_rollouts import Wanted
from grape_training.truth import Rollout


def measure_keypoints(rollouts: Iterable[tuple[Wanted, Rollout]]) -> dict[str, Any]:
    """Return error and tracked share over all episodes and per suite.

    The error (m) is that of every keypoint at every frame, whether it was seen there or only kept, from the
    true centre of the object's visible shape. Tracked: frames with positive confidence. An object that was
    never found counts as untracked in all frames and has no error (``not_found`` counts them).
    """
    errors: dict[str, list[np.ndarray]] = defaultdict(list)
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    episodes: dict[str, int] = defaultdict(int)
    refused: dict[str, int] = defaultdict(int)
    for item, rollout in rollouts:
        episodes[item.suite] += 1
        try:
            tracks = track(rollout.episode)
        except ScoringError:
            refused[item.suite] += 1
            continue
        assert tracks is not None
        truth = np.stack([rollout.centres[name] for name in tracks.names], axis=1)
        errors[item.suite].append(np.linalg.norm(tracks.positions - truth, axis=2).ravel())
        seen[item.suite].append((tracks.confidence > 0).ravel())
    return {
        "episodes": sum(episodes.values()),
        **_summary([e for group in errors.values() for e in group], [s for g in seen.values() for s in g]),
        "refused": sum(refused.values()),
        "suites": {
            name: {
                "episodes": episodes[name],
                **_summary(errors[name], seen[name]),
                "refused": refused[name],
            }
            for name in episodes
        },
    }


def _summary(errors: list[np.ndarray], seen: list[np.ndarray]) -> dict[str, Any]:
    if not errors:
        return {"median_error_m": None, "p95_error_m": None, "tracked_share": 0.0, "not_found": 0}
    values = np.concatenate(errors)
    known = values[np.isfinite(values)]
    return {
        "median_error_m": float(np.median(known)) if len(known) else None,
        "p95_error_m": float(np.percentile(known, 95)) if len(known) else None,
        "tracked_share": float(np.mean(np.concatenate(seen))),
        "not_found": int(len(values) - len(known)),
    }
