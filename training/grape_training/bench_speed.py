"""Speed of scoring: all frames at once against a loop over them, and growth with the episodes' number."""

from __future__ import annotations

import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from grape_episodes.types import Episode
from grape_preference.constraints import StagePlan
from grape_preference.folder import save_scores
from grape_preference.language_types import Context
from grape_preference.pairs import make_pairs, save_pairs
from grape_preference.scoring import score_episode
from grape_preference.tracks import KeypointTracks

REPEATS = 7
GROUP = 5  # episodes per initial state in the replicated folder
_ARRAYS = (
    "positions",
    "confidence",
    "end_effector_positions",
    "end_effector_quaternions",
    "gripper",
    "times",
    "obstacles_gone",
)


def speedups(cases: Sequence[tuple[StagePlan, KeypointTracks]]) -> dict[str, float]:
    """Return how much faster a plan's constraints are over all frames at once than frame by frame.

    Both evaluate the same expressions by the same functions and give the same values, which is checked. The
    loop goes over the frames and, at each, over the constraints, seeing the episode up to that frame (for
    path lengths and lifts). ``speedup_vs_sharing_loop``: against a loop whose constraints share, within a
    frame, what they have in common, as they do over all frames at once.
    """
    totals = np.zeros(3)
    for plan, tracks in cases:
        expressions = [constraint.expression for stage in plan.stages for constraint in stage.constraints]
        pasts = [_until(tracks, t) for t in range(len(tracks))]

        def at_once(tracks: KeypointTracks = tracks, expressions: Any = expressions) -> np.ndarray:
            context = Context(tracks)
            return np.array([expression.values(context) for expression in expressions], float).T

        def by_frame(pasts: Any = pasts, expressions: Any = expressions) -> np.ndarray:
            return np.array([[e.values(Context(past))[-1] for e in expressions] for past in pasts], float)

        def sharing(pasts: Any = pasts, expressions: Any = expressions) -> np.ndarray:
            rows = []
            for past in pasts:
                context = Context(past)
                rows.append([expression.values(context)[-1] for expression in expressions])
            return np.array(rows, float)

        with np.errstate(all="ignore"):
            np.testing.assert_allclose(by_frame(), at_once(), rtol=1e-9, atol=1e-12)
            # As many calls at once as there are frames, so that both sides run equally long and equally warm.
            totals += [_fastest(at_once, len(pasts)), _fastest(by_frame), _fastest(sharing)]
    return {
        "speedup_vs_python_loop": float(totals[1] / totals[0]),
        "speedup_vs_sharing_loop": float(totals[2] / totals[0]),
        "constraints_us_per_episode": float(totals[0] / len(cases) * 1e6),
    }


def growth(cases: Sequence[tuple[Episode, KeypointTracks]], sizes: Sequence[int]) -> dict[str, Any]:
    """Return the exponent of time over the number of episodes, from the slope in log-log scale.

    The recorded ``cases`` are replicated in memory under new ids (images left out: reading and keypoints cost
    the same for every episode). Measured, in processor time: scoring every episode, forming the groups and
    pairs, and writing both results.
    """
    _score_many(cases, sizes[0])  # what is done only once is no growth
    seconds = [min(_score_many(cases, size) for _ in range(_repeats(size))) for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return {
        "growth_exponent": slope,
        "growth": {
            "what": "scoring, pairing and writing of recorded episodes replicated in memory",
            "episodes": list(sizes),
            "seconds": seconds,
        },
    }


def _repeats(size: int) -> int:
    """Return how often to measure: small sizes are over so quickly that a disturbance would count."""
    return 3 if size < 2000 else 1


def _score_many(cases: Sequence[tuple[Episode, KeypointTracks]], count: int) -> float:
    started = time.process_time()
    scores = []
    for number in range(count):
        episode, tracks = cases[number % len(cases)]
        state = f"{episode.manifest.task}/bench/{number // GROUP:05d}"
        manifest = replace(episode.manifest, episode_id=f"{number:06d}", initial_state_id=state)
        scores.append(score_episode(replace(episode, manifest=manifest), tracks))
    with tempfile.TemporaryDirectory() as folder:
        save_scores(scores, Path(folder) / "scores.json")
        save_pairs(make_pairs(scores), Path(folder) / "pairs.parquet")
    return time.process_time() - started


def _until(tracks: KeypointTracks, t: int) -> KeypointTracks:
    return replace(tracks, **{name: getattr(tracks, name)[: t + 1] for name in _ARRAYS})


def _fastest(function: Callable[[], object], calls: int = 1) -> float:
    """Return the seconds of processor time of one call, from the fastest of some runs of ``calls`` calls."""
    timer = timeit.Timer(function, timer=time.process_time)  # holds the garbage collector meanwhile
    return max(min(timer.repeat(REPEATS, calls)) / calls, 1e-9)
