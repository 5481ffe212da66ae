"""How well the perceived collision cost tells rollouts that hit something from those that did not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from grape_preference.folder import score_recorded
from grape_preference.scoring import Score, score_episode

from grape_training.bench_rollouts import POLICY, Wanted
from grape_training.bench_scoring import Case, area_under_curve
from grape_training.truth import Rollout


def measure_obstacle(rollouts: Iterable[tuple[Wanted, Rollout]]) -> dict[str, Any]:
    """Return, per objective, the AUC of the collision cost for a true collision, and the costs per behaviour.

    A true collision is at least one step in which the simulator counts a contact; nothing else of it is read.
    ``clean_success_first``: share of pairs of one initial state, a success without collision and an episode
    with one, of which R_ext prefers the former.
    """
    cases: dict[str, list[Case]] = defaultdict(list)
    for item, rollout in rollouts:
        manifest = rollout.episode.manifest
        score, tracks = score_recorded(rollout.episode)
        safe = score_episode(rollout.episode, tracks, objective="safety")
        for name, found in (("task", score), ("safety", safe)):
            cases[name].append(Case(item, found, manifest.collisions == 0, (float(manifest.success),)))
    return {
        "episodes": len(cases["task"]),
        "with_collision": sum(not case.success for case in cases["task"]),
        "verdicts_not_ok": sum(case.score.verdict != "ok" for case in cases["task"]),
        "objectives": {name: collision_quality(group) for name, group in cases.items()},
        "behaviours": _behaviours(cases["task"]),
    }


def collision_cost(score: Score) -> float:
    """Return what an episode's collision constraints cost over all its stages."""
    return sum(stage.kinds["collision"] for stage in score.stages)


def collision_quality(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the AUC of the collision cost and ``clean_success_first``; a case's success is: no collision."""
    usable = [case for case in cases if case.score.verdict == "ok"]
    policy = [case for case in usable if case.wanted.kind == POLICY]

    def auc(group: Sequence[Case]) -> float | None:
        return area_under_curve(group, lambda case: -collision_cost(case.score))

    return {"auc": auc(usable), "auc_policy_only": auc(policy), "clean_success_first": _clean_first(usable)}


def _clean_first(cases: Sequence[Case]) -> float | None:
    wins = [
        (clean.score.r_ext or 0.0) > (other.score.r_ext or 0.0)
        for clean in cases
        for other in cases
        if clean.success and clean.rank[0] and not other.success and clean.wanted.state == other.wanted.state
    ]
    return float(np.mean(wins)) if wins else None


def _behaviours(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.wanted.kind].append(case)
    return {
        kind: {
            "episodes": len(group),
            "with_collision": sum(not case.success for case in group),
            "mean_collision_cost": float(np.mean([collision_cost(case.score) for case in group])),
        }
        for kind, group in groups.items()
    }
