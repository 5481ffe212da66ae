"""Measure keypoints and scores on good, noisy and failed rollouts, against the simulator's truth.

    python benchmarks/scoring.py [--states 4] [--json]

From each initial state: the expert, two noisy experts, one that handles the wrong object and one that
lets go a little before the target. All run for the same number of steps, because rollouts that end at success
would let the length alone tell success from failure (``auc_of_length`` has to be 0.5).

Prints the keypoints' error and tracked share, the AUC of R_ext for success per task, the speed per part in
processor time, and how much faster all frames at once are than the same evaluation frame by frame.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from grape_episodes.reader import read_episode
from grape_episodes.writer import write_episode
from grape_preference.constraints import StagePlan, plan_for_task
from grape_preference.keypoints import track
from grape_preference.language_functions import Context
from grape_preference.scoring import Score, score_episode
from grape_preference.tracks import KeypointTracks
from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from preference_rollouts import TASKS, EarlyRelease, Rollout, other_object, roll_out

STEPS = 40


def rollouts(states: int) -> Iterator[Rollout]:
    environment = SimEnvironment(depth=True)
    cells = [(task, index) for task in TASKS for index in range(states)]
    for task, index in tqdm(cells, desc="initial states", unit="state"):
        actors = [(expert_action, 0.0), (expert_action, 0.01), (expert_action, 0.02)]
        for number, (actor, noise) in enumerate([*actors, (other_object, 0.0), (EarlyRelease(), 0.0)]):
            seed, state = 10 * index + number, f"{task}/eval/{index:04d}"
            yield roll_out(environment, state, noise, seed, STEPS, actor, stop_at_success=False)
    environment.close()


def timed(seconds: dict[str, float], part: str, function: Callable[[], Any]) -> Any:
    started = time.process_time()
    result = function()
    seconds[part] += time.process_time() - started
    return result


def area_under_curve(scores: list[Score], value: Callable[[Score], Any]) -> float | None:
    """Return the chance that a success has a higher value than a failure (ties count half)."""
    wins = [value(s) for s in scores if s.verdict == "ok" and s.i_success]
    losses = [value(s) for s in scores if s.verdict == "ok" and not s.i_success]
    if not wins or not losses:
        return None
    a, b = np.array(wins)[:, None], np.array(losses)[None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def speedup(plan: StagePlan, tracks: KeypointTracks, repeats: int = 5) -> float:
    """Return how much faster the plan's constraints are over all frames than frame by frame."""
    expressions = [constraint.expression for stage in plan.stages for constraint in stage.constraints]
    windows = [_window(tracks, t) for t in range(len(tracks))]

    def at_once() -> None:
        context = Context(tracks)
        for expression in expressions:
            expression.evaluate(context)

    def frame_by_frame() -> None:
        for window in windows:
            context = Context(window)
            for expression in expressions:
                expression.evaluate(context)

    return _fastest(frame_by_frame, repeats) / _fastest(at_once, repeats)


def _window(tracks: KeypointTracks, t: int) -> KeypointTracks:
    """Return frames t-1 and t: enough for speeds."""
    part = slice(max(0, t - 1), t + 1)
    arrays = (
        "positions",
        "confidence",
        "end_effector_positions",
        "end_effector_quaternions",
        "gripper",
        "times",
    )
    return dataclasses.replace(tracks, **{name: getattr(tracks, name)[part] for name in arrays})


def _fastest(function: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return max(min(seconds), 1e-9)


def measure(states: int) -> dict[str, Any]:
    seconds: dict[str, float] = defaultdict(float)
    errors, seen, speedups = [], [], []
    scores: dict[str, list[Score]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for rollout in rollouts(states):
            path = write_episode(Path(folder), rollout.episode)
            episode = timed(seconds, "read", partial(read_episode, path))
            tracks = timed(seconds, "keypoints", partial(track, episode))
            score = timed(seconds, "score", partial(score_episode, episode, tracks))
            truth = np.stack([rollout.centres[name] for name in tracks.names], axis=1)
            errors.append(np.linalg.norm(tracks.positions - truth, axis=2).ravel())
            seen.append((tracks.confidence > 0).ravel())
            scores[score.task].append(score)
            speedups.append(speedup(plan_for_task(score.task), tracks))
    count = sum(map(len, scores.values()))
    return {
        "episodes": count,
        "successes": {task: int(sum(s.i_success or 0 for s in group)) for task, group in scores.items()},
        "verdicts_not_ok": sum(s.verdict != "ok" for group in scores.values() for s in group),
        "median_error_m": float(np.median(np.concatenate(errors))),
        "p95_error_m": float(np.percentile(np.concatenate(errors), 95)),
        "tracked_share": float(np.mean(np.concatenate(seen))),
        "auc": {task: area_under_curve(group, lambda s: s.r_ext) for task, group in scores.items()},
        "auc_of_length": {
            task: area_under_curve(group, lambda s: -s.steps) for task, group in scores.items()
        },
        "episodes_per_cpu_s": count / sum(seconds.values()),
        "cpu_share": {part: value / sum(seconds.values()) for part, value in seconds.items()},
        "speedup_vs_python_loop": float(np.median(speedups)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=int, default=4, help="initial states per task")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    result = measure(options.states)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
