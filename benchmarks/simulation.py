"""Measure the simulation: the expert's success by contact, collisions, steps, and the time of each part.

    python benchmarks/simulation.py [--suite in_domain] [--states 40] [--noise-mm 0] [--no-images] [--json]

Times are of one busy core (processor time), without the policy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action
from grape_sim.random_scene import RandomSceneRenderer


def run_expert(
    environment: SimEnvironment, cell: str, states: int, noise: float, images: bool
) -> dict[str, float]:
    """Run the expert from the first evaluation states; return its rates and mean steps."""
    rng = np.random.default_rng(0)
    wins, collisions, steps = 0, 0, []
    started = time.process_time()
    reset, step = (
        (environment.reset, environment.step) if images else (environment.reset_scene, environment.act)
    )
    for name in environment.suite.state_ids("eval", states, cells=[cell]):
        reset(name)
        count = 0
        while count < environment.suite.max_steps and not environment.success_now:
            action = expert_action(environment)
            action[:3] += rng.normal(0.0, noise, 3)
            step(action)
            count += 1
        verdict = environment.judge()
        wins, collisions = wins + verdict.success, collisions + verdict.collisions
        steps.append(count)
    minutes = (time.process_time() - started) / 60.0
    return {
        "successes": wins,
        "states": states,
        "collision_steps": collisions,
        "mean_steps": round(float(np.mean(steps)), 1),
        "max_steps": int(max(steps)),
        "episodes_per_core_minute": round(states / minutes, 1),
    }


def milliseconds(work: Callable[[], object], repeats: int = 30) -> float:
    """Return the median time of ``work`` in ms."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return round(1000.0 * float(np.median(times)), 2)


def measure_times(environment: SimEnvironment) -> dict[str, float]:
    """Return how long single operations take, in ms."""
    start = environment.suite.state_ids("eval", 1)[0]
    still = np.array([0.0] * 6 + [1.0])
    scenes = RandomSceneRenderer(0)
    environment.reset(start)
    times = {
        "reset_ms": milliseconds(lambda: environment.reset(start)),
        "step_ms": milliseconds(lambda: environment.step(still)),
        "render_ms": milliseconds(environment.observe),
        "random_scene_ms": milliseconds(lambda: scenes.sample(masks=False)),
        "random_scene_with_masks_ms": milliseconds(scenes.sample),
    }
    scenes.close()
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="in_domain", help="shipped suite or suite file")
    parser.add_argument("--states", type=int, default=40, help="eval initial states for each cell")
    parser.add_argument("--no-images", action="store_true", help="render nothing while the expert acts")
    parser.add_argument(
        "--noise-mm", type=float, default=0.0, help="standard deviation of noise on each step"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    environment = SimEnvironment(suite=arguments.suite)
    result = {"times": measure_times(environment)}
    for cell in environment.suite.cells:
        result[cell] = run_expert(
            environment, cell, arguments.states, arguments.noise_mm / 1000.0, not arguments.no_images
        )
    environment.close()
    print(json.dumps(result) if arguments.json else as_table(result))


def as_table(result: dict[str, dict[str, float]]) -> str:
    """Return the results as lines of text."""
    lines = [f"{name:28s}{value:8.2f}" for name, value in result["times"].items()]
    for cell, row in result.items():
        if cell == "times":
            continue
        lines.append(f"{cell:20s} " + "  ".join(f"{key} {value}" for key, value in row.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
