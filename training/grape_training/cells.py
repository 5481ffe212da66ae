"""One evaluated episode: how it is run in a worker process, and what is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from grape_training.motion import path_length, rms_jerk
from grape_training.policies import PolicySpec, cell_seed, start_actor

if TYPE_CHECKING:
    from grape_training.policies import Actor

IN_DOMAIN = "in_domain"
FILM_WIDTH = 240  # px


@dataclass(frozen=True)
class CellResult:
    """One evaluated episode.

    collisions: steps with a forbidden contact. steps: until success or the limit. path_length (m) and jerk
    (RMS, m/s^3): of the measured end-effector positions, one a step. stage: the furthest stage of the task
    that was reached, e.g. ``carried``. seconds: wall time, of it policy_seconds in the policy; these two
    differ from run to run and do not count when results are compared.
    """

    initial_state_id: str
    success: bool
    grasped: bool
    collisions: int
    steps: int
    path_length: float = 0.0
    jerk: float = 0.0
    stage: str = ""
    seconds: float = field(default=0.0, compare=False)
    policy_seconds: float = field(default=0.0, compare=False)

    @property
    def task(self) -> str:
        """The cell (a task, or ``<suite>.<cell>``), which is the first part of the initial state's name."""
        return self.initial_state_id.split("/")[0]


@dataclass(frozen=True)
class Cell:
    """What a worker needs to run one episode; ``name`` is the policy's in the results."""

    name: str
    spec: PolicySpec
    initial_state_id: str


@lru_cache(maxsize=1)
def shared_environment(suite: str = IN_DOMAIN) -> Any:
    """Return this process's environment for the initial states of ``suite`` (a shipped name or a file)."""
    from grape_training.suites import open_environment

    return open_environment(suite)


def run_cell(cell: Cell, *, max_steps: int, seed: int, suite: str = IN_DOMAIN) -> CellResult:
    """Run one episode in this process's environment; a refused action ends it, as on the arm."""
    return _run(cell, max_steps, seed, suite, None)


def film_cell(
    cell: Cell, *, max_steps: int, seed: int, suite: str = IN_DOMAIN
) -> tuple[CellResult, np.ndarray]:
    """Run one episode and keep its images, (steps + 1, ..., FILM_WIDTH, 3) uint8 RGB."""
    images: list[np.ndarray] = []
    result = _run(cell, max_steps, seed, suite, images)
    height = round(images[0].shape[0] * FILM_WIDTH / images[0].shape[1])
    scaled = [Image.fromarray(image).resize((FILM_WIDTH, height), Image.Resampling.BOX) for image in images]
    return result, np.stack([np.asarray(image) for image in scaled])


def _run(cell: Cell, max_steps: int, seed: int, suite: str, images: list[np.ndarray] | None) -> CellResult:
    started = time.perf_counter()
    environment = shared_environment(suite)
    state = cell.initial_state_id
    actor, first = start_actor(cell.spec, environment, state, cell_seed(seed, state))
    result, seen = run_episode(environment, actor, first, max_steps)
    if images is not None:
        images.extend(each.image for each in seen)
    return replace(result, seconds=time.perf_counter() - started)


def run_episode(
    environment: Any, actor: Actor, first: Any, max_steps: int, *, stop_at_success: bool = True
) -> tuple[CellResult, list[Any]]:
    """Let ``actor`` act from the observation ``first`` on; return the result and all observations."""
    from grape_policy.arm.safety import ActionRefused

    timed, seen = _Timed(actor), [first]
    while len(seen) <= max_steps and not (stop_at_success and environment.success_now):
        try:
            seen.append(environment.step(timed.act(seen[-1])))
        except ActionRefused:  # the arm would have stopped here
            break
    positions = np.stack([each.end_effector_position for each in seen])
    verdict = environment.judge()
    result = CellResult(
        initial_state_id=environment.initial_state_id,
        success=bool(verdict.success),
        grasped=bool(verdict.grasped),
        collisions=int(verdict.collisions),
        steps=len(seen) - 1,
        path_length=path_length(positions),
        jerk=rms_jerk(positions, (seen[-1].stamp_ns - first.stamp_ns) * 1e-9 / max(len(seen) - 1, 1)),
        stage=str(verdict.stage),
        policy_seconds=timed.seconds,
    )
    return result, seen


class _Timed:
    """An actor whose time is counted."""

    def __init__(self, actor: Actor) -> None:
        self.actor, self.seconds = actor, 0.0

    def act(self, observation: Any) -> np.ndarray:
        started = time.perf_counter()
        action = self.actor.act(observation)
        self.seconds += time.perf_counter() - started
        return action
