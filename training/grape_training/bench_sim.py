"""How fast episodes are simulated, and where their time goes; the policy's own time is left out.

An episode here is what an evaluation runs: reset, then 30 actions each with physics, controller, judge and a
rendered camera image, then the measures and the line in the result file. The actions are the expert's,
computed beforehand.

episodes_per_core_minute: by processor time of one process, which runs on one core.
reset_ms: median processor time of a reset, image included.
physics_share, rendering_share: MuJoCo's steps; the camera's images.
overhead_share: everything else: the arm's controller, judge, reset, measures, result file. Of it
controller_share is in the arm's controller with its inverse kinematics and clearance checks, the code that
runs on a real arm.
two_worker_speedup: episodes per second of two worker processes against one, by the wall clock, in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from grape_training.cells import run_episode, shared_environment
from grape_training.files import append_json_line
from grape_training.pool import run_parallel
from grape_training.suites import load_suite

STEPS = 30
ROUNDS = 2  # of one and two workers in turn


class _Replay:
    """Repeats actions."""

    def __init__(self, actions: Sequence[np.ndarray]) -> None:
        self._actions = iter(actions)

    def act(self, observation: Any) -> np.ndarray:
        return next(self._actions)


def measure_simulation(suite: str, episodes: int) -> dict[str, Any]:
    """Return the figures that the module's docstring defines, for ``episodes`` episodes of ``suite``."""
    states = _states(suite, episodes)
    environment = shared_environment(suite)
    actions = {state: _expert_actions(environment, state) for state in states}
    resets = [_timed(partial(environment.reset, state)) for state in states]
    with tempfile.TemporaryDirectory() as folder, _stopwatches() as spent:
        path = Path(folder) / "results.jsonl"
        total = sum(_timed(partial(_episode, environment, s, actions[s], path)) for s in states)
    return {
        "episodes_per_core_minute": 60.0 * len(states) / total,
        "reset_ms": 1000.0 * statistics.median(resets),
        "overhead_share": 1.0 - (spent["physics"] + spent["rendering"]) / total,
        **{f"{name}_share": seconds / total for name, seconds in spent.items()},
        "two_worker_speedup": _speedup(suite, episodes),
        "episodes": len(states),
        "steps_per_episode": STEPS,
        "image": list(environment.observe().image.shape[:2]),
        "suite": load_suite(suite).name,
    }


def _states(suite: str, episodes: int) -> list[str]:
    loaded = load_suite(suite)
    return loaded.state_ids("eval", -(-episodes // len(loaded.cells)))[:episodes]


def _expert_actions(environment: Any, state: str) -> list[np.ndarray]:
    from grape_sim.expert import expert_action

    environment.reset(state)
    actions = []
    for _ in range(STEPS):
        actions.append(expert_action(environment))
        environment.step(actions[-1])
    return actions


def _episode(environment: Any, state: str, actions: Sequence[np.ndarray], path: Path) -> None:
    first = environment.reset(state)
    result, _ = run_episode(environment, _Replay(actions), first, STEPS, stop_at_success=False)
    append_json_line(path, asdict(result))


def _timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@contextmanager
def _stopwatches() -> Iterator[dict[str, float]]:
    """Count the processor time inside physics steps, the arm's controller and the camera's renderer."""
    import mujoco
    from grape_policy.arm.controller import CartesianController as Controller
    from grape_sim.rendering import CameraRenderer

    spent = {"physics": 0.0, "controller": 0.0, "rendering": 0.0}

    def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.process_time() - started

        return run

    with (
        patch.object(mujoco, "mj_step", watched(mujoco.mj_step, "physics")),
        patch.object(Controller, "tick", watched(Controller.tick, "controller")),
        patch.object(Controller, "command", watched(Controller.command, "controller")),
        patch.object(CameraRenderer, "colour", watched(CameraRenderer.colour, "rendering")),
    ):
        yield spent


def run_moving_episode(state: str, suite: str) -> None:
    """Run one episode in a worker: the arm goes down and up in the middle of the table."""
    environment = shared_environment(suite)
    actions = [np.array([0, 0, -0.02 if t % 10 < 5 else 0.02, 0, 0, 0, 1.0]) for t in range(STEPS)]
    run_episode(environment, _Replay(actions), environment.reset(state), STEPS, stop_at_success=False)


def _speedup(suite: str, episodes: int) -> float:
    """Return how much faster two workers finish episodes than one; medians of rounds in turn."""
    states = _states(suite, episodes)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers, found in rates.items():
            found.append(_rate(suite, states, workers))
    return statistics.median(rates[2]) / statistics.median(rates[1])


def _rate(suite: str, states: Sequence[str], workers: int) -> float:
    """Return episodes per second once all workers have started: each has finished an episode by then."""
    times = []
    with closing(run_parallel(partial(run_moving_episode, suite=suite), states, workers)) as results:
        for _ in results:
            times.append(time.perf_counter())
    warm = 2 * workers - 1
    return (len(times) - 1 - warm) / (times[-1] - times[warm])
