"""How good and how fast the scores are: AUC for true success, ablation, speed-up, growth, share per part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from grape_episodes.reader import read_episode
from grape_preference.constraints import plan_for_task
from grape_preference.keypoints import track
from grape_preference.rewards import rewards
from grape_preference.scoring import Score, score_episode
from grape_preference.tracks import KeypointTracks

from grape_training.bench_rollouts import POLICY, Wanted
from grape_training.bench_speed import growth, speedups
from grape_training.truth import Rollout, load_truth

# Weights of R_self, R_ext and I_success, standardised inside the group (see rewards.find_preset).
VARIANTS = {
    "all": "1,1,1",
    "without_r_self": "0,1,1",
    "without_r_ext": "1,0,1",
    "without_i_success": "1,1,0",
}


@dataclass(frozen=True)
class Case:
    """One scored episode with its truth: success, and what an expert who sees everything ranks it by."""

    wanted: Wanted
    score: Score
    success: bool
    rank: tuple[float, ...]


def measure_scoring(root: Path, wanted: Sequence[Wanted], sizes: Sequence[int]) -> dict[str, Any]:
    """Score every rollout of ``wanted`` below ``root`` and return all figures.

    ``sizes``: the numbers of episodes between which the growth is measured.
    """
    seconds: dict[str, float] = defaultdict(float)
    cases, kept = [], []
    for item in wanted:
        episode = _timed(seconds, "read", partial(read_episode, root / "episodes" / item.name))
        tracks = _timed(seconds, "keypoints", partial(track, episode))
        score = _timed(seconds, "score", partial(score_episode, episode, tracks))
        truth = Rollout(episode, load_truth(root, item.name))
        cases.append(Case(item, score, episode.manifest.success, expert_rank(truth)))
        if score.verdict == "ok" and tracks is not None:
            kept.append((replace(episode, images=episode.images[:0], depths=None), tracks))
    return {
        **quality(cases),
        "episodes_per_s": len(cases) / sum(seconds.values()),
        "share": {part: value / sum(seconds.values()) for part, value in seconds.items()},
        **speedups([(plan_for_task(e.manifest.task), t) for e, t in _one_per_task(kept)]),
        **growth(kept, sizes),
    }


def quality(cases: Sequence[Case]) -> dict[str, Any]:
    """Return verdicts, AUC of R_ext per task (with and without the scripted rollouts), and the ablation."""
    usable = [case for case in cases if case.score.verdict == "ok"]
    policy = [case for case in usable if case.wanted.kind == POLICY]
    return {
        "episodes": len(cases),
        "policy_episodes": len([case for case in cases if case.wanted.kind == POLICY]),
        "successes": sum(case.success for case in cases),
        "verdicts_not_ok": len(cases) - len(usable),
        "auc": _per_task(usable, lambda case: case.score.r_ext or 0.0),
        "auc_policy_only": _per_task(policy, lambda case: case.score.r_ext or 0.0),
        "auc_of_length": _per_task([c for c in usable if c.wanted.kind != POLICY], lambda c: -c.score.steps),
        "ablation": ablation(policy),
    }


def area_under_curve(cases: Iterable[Case], value: Callable[[Case], float]) -> float | None:
    """Return the chance that a true success has a higher value than a failure (ties count half)."""
    cases = list(cases)
    wins = [value(case) for case in cases if case.success]
    losses = [value(case) for case in cases if not case.success]
    if not wins or not losses:
        return None
    a, b = np.array(wins)[:, None], np.array(losses)[None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def ablation(cases: Sequence[Case]) -> dict[str, dict[str, float | int | None]]:
    """Return, per set of terms, how often the reward orders two episodes of a state as the truth does.

    ``success``: over pairs of which one truly succeeded. ``expert``: over pairs that the expert's ranking
    (``expert_rank``) tells apart. Ties of the reward count half.
    """
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.wanted.state].append(case)
    result: dict[str, dict[str, float | int | None]] = {}
    for name, weights in VARIANTS.items():
        right: dict[str, list[float]] = {"success": [], "expert": []}
        for group in groups.values():
            values = rewards([case.score for case in group], weights)
            right["success"] += _orders(values, [(float(case.success),) for case in group])
            right["expert"] += _orders(values, [case.rank for case in group])
        result[name] = {kind: float(np.mean(flags)) if flags else None for kind, flags in right.items()}
        result[name] |= {f"{kind}_pairs": len(flags) for kind, flags in right.items()}
    return result


def expert_rank(rollout: Rollout) -> tuple[float, ...]:
    """Return what an expert who sees the simulator's state ranks by: higher is better, the first counts most.

    Success; whether it grasped; how near (to 1 cm) the source is to the target in the end; collisions; steps.
    """
    manifest = rollout.episode.manifest
    source, target = plan_for_task(manifest.task).keypoints[:2]
    gap = float(np.linalg.norm((rollout.centres[source][-1] - rollout.centres[target][-1])[:2]))
    success, grasped = float(manifest.success), float(manifest.grasped)
    distance = 0.0 if manifest.success else -round(gap, 2)
    return (success, grasped, distance, -float(manifest.collisions), -float(manifest.steps))


def _orders(values: Sequence[float], truths: Sequence[tuple[float, ...]]) -> list[float]:
    """Return 1 per pair that the truth tells apart and the values order alike, 0 if not, 0.5 at a tie."""
    found = []
    for j in range(len(values)):
        for i in range(j):
            if truths[i] != truths[j]:
                better, worse = (i, j) if truths[i] > truths[j] else (j, i)
                tie = abs(values[i] - values[j]) < 1e-12
                found.append(0.5 if tie else float(values[better] > values[worse]))
    return found


def _per_task(cases: Sequence[Case], value: Callable[[Case], float]) -> dict[str, float | None]:
    tasks = sorted({case.score.task for case in cases})
    return {task: area_under_curve([c for c in cases if c.score.task == task], value) for task in tasks}


def _one_per_task(kept: Sequence[tuple[Any, KeypointTracks]]) -> list[tuple[Any, KeypointTracks]]:
    """Return the first usable episode of every task."""
    first: dict[str, tuple[Any, KeypointTracks]] = {}
    for episode, tracks in kept:
        first.setdefault(episode.manifest.task, (episode, tracks))
    return list(first.values())


def _timed(seconds: dict[str, float], part: str, function: Callable[[], Any]) -> Any:
    started = time.process_time()
    result = function()
    seconds[part] += time.process_time() - started
    return result
