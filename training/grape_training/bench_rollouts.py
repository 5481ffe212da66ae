"""The rollouts that the benchmarks of keypoints, scores and judge look at: made once, kept with their truth.

Scripted actors give good, noisy and failed behaviour on purpose; the policy's own rollouts are what a score
has to cope with. Scripted in-domain rollouts all run for the same number of steps, because rollouts that end
at success would let the length alone tell success from failure; the policy's end as collected ones do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from grape_episodes.manifest import MANIFEST_NAME
from grape_sim.environment import SimEnvironment
from grape_sim.suite import load_suite
from tqdm import tqdm

from grape_training.policies import VlaActor, cell_seed, load_vla
from grape_training.pool import run_parallel, termination_deferred
from grape_training.truth import (
    Actor,
    EarlyRelease,
    PolicyActor,
    Rollout,
    expert,
    has_truth,
    load_rollout,
    other_object,
    roll_out,
    save_rollout,
    straight,
)

IN_DOMAIN = "in_domain"
SCRIPTED_STEPS, TEMPERATURE = 40, 0.7
POLICY = "policy"
SCRIPTED_KINDS = ("expert", "noisy", "wild", "other", "early")
NOISE = {"noisy": 0.01, "wild": 0.02}  # m per step; the others have none
# What is run in the suites beside the in-domain one, where keypoints are at stake.
OTHER_KINDS = ("expert", "wild")
# Round the obstacle, with noise, and straight through it.
OBSTACLE, OBSTACLE_KINDS = "obstacle", ("expert", "noisy", "wild", "straight")


@dataclass(frozen=True)
class Wanted:
    """One rollout: where it starts, who acts (a scripted kind, or POLICY), and which repetition."""

    suite: str
    state: str
    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        """The episode's id."""
        return f"{self.state.replace('/', '-').replace('.', '-')}-{self.kind}-{self.number}"


def in_domain(scripted_states: int, policy_states: int, rollouts: int) -> list[Wanted]:
    """Return all scripted kinds on ``scripted_states`` per task, and the policy's on ``policy_states``."""
    suite = load_suite(IN_DOMAIN)
    scripted = suite.state_ids("eval", scripted_states) if scripted_states else []
    sampled = suite.state_ids("eval", policy_states) if policy_states else []
    wanted = [Wanted(IN_DOMAIN, state, kind) for state in scripted for kind in SCRIPTED_KINDS]
    return wanted + [
        Wanted(IN_DOMAIN, state, POLICY, number) for state in sampled for number in range(rollouts)
    ]


def other_suites(names: Sequence[str], episodes: int) -> list[Wanted]:
    """Return at least ``episodes`` rollouts of every suite but the in-domain one, spread over its cells."""
    wanted = []
    for name in names:
        suite = load_suite(name)
        per_cell = -(-episodes // (len(suite.cells) * len(OTHER_KINDS)))
        wanted += [
            Wanted(name, state, kind) for state in suite.state_ids("eval", per_cell) for kind in OTHER_KINDS
        ]
    return wanted


def obstacles(states: int, rollouts: int) -> list[Wanted]:
    """Return scripted kinds and ``rollouts`` of the policy on ``states`` per cell of the obstacle suite."""
    found = load_suite(OBSTACLE).state_ids("eval", states)
    wanted = [Wanted(OBSTACLE, state, kind) for state in found for kind in OBSTACLE_KINDS]
    return wanted + [Wanted(OBSTACLE, state, POLICY, number) for state in found for number in range(rollouts)]


def make(
    root: Path, wanted: Sequence[Wanted], policy: str, *, workers: int = 2, progress: bool = True
) -> None:
    """Run what is not below ``root`` yet, in ``workers`` processes; ``policy`` is a checkpoint."""
    missing = [item for item in wanted if not _is_complete(root, item)]
    function = partial(make_one, root=root, policy=policy)
    with (
        tqdm(total=len(missing), desc="rollouts", unit="ep", disable=not (progress and missing)) as bar,
        closing(run_parallel(function, missing, workers)) as results,
    ):
        for _ in results:
            bar.update()


def make_one(item: Wanted, *, root: Path, policy: str) -> None:
    """Run one rollout and write it with its truth; the unit of work of ``make``."""
    rollout = _run(_environment(item.suite), item, policy)
    with termination_deferred():
        save_rollout(root, item.name, rollout)


def _is_complete(root: Path, item: Wanted) -> bool:
    return (root / "episodes" / item.name / MANIFEST_NAME).exists() and has_truth(root, item.name)


@lru_cache(maxsize=1)
def _environment(suite: str) -> SimEnvironment:
    return SimEnvironment(suite=suite, depth=True)


def load(root: Path, wanted: Sequence[Wanted], progress: bool = True) -> Iterator[tuple[Wanted, Rollout]]:
    """Yield every rollout of ``wanted`` from disk."""
    for item in tqdm(wanted, desc="episodes", unit="ep", disable=not progress):
        yield item, load_rollout(root, item.name)


def _run(environment: SimEnvironment, item: Wanted, policy: str) -> Rollout:
    seed = cell_seed(item.number, f"{item.state} {item.kind}") % 2**31
    max_steps = load_suite(item.suite).max_steps
    if item.kind == POLICY:
        environment.reset_scene(item.state)  # says what the instruction is
        actor = PolicyActor(VlaActor(load_vla(policy), environment.instruction, TEMPERATURE, seed))
        return roll_out(environment, item.state, 0.0, seed, max_steps, actor)
    fixed = item.suite == IN_DOMAIN
    actors: dict[str, Actor] = {"other": other_object, "early": EarlyRelease(), "straight": straight}
    return roll_out(
        environment,
        item.state,
        NOISE.get(item.kind, 0.0),
        seed,
        SCRIPTED_STEPS if fixed else max_steps,
        actors.get(item.kind, expert),
        stop_at_success=not fixed,
    )
