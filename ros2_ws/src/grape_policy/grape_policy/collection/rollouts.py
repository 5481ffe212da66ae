"""Which rollouts a collection consists of, and which of them are still to be run. No ROS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grape_episodes.catalogue import Entry

COMPLETED = (
    "success",
    "failure",
    "stopped",
)  # an aborted rollout says nothing about the policy: run it again


@dataclass(frozen=True)
class Rollout:
    """One rollout to run from one initial state."""

    task: str
    initial_state_id: str
    seed: int


def rollout_seed(seed: int, initial_state_id: str, rollout: int) -> int:
    """Return the seed (uint32) of a rollout: a pure function of its arguments."""
    digest = hashlib.sha256(f"{seed}/{initial_state_id}/{rollout}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def plan(tasks: Sequence[str], initial_state_ids: Sequence[str], rollouts: int, seed: int) -> list[Rollout]:
    """Return all rollouts, those of one initial state after one another.

    Raises:
        ValueError: The lists differ in length, or nothing is asked for.
    """
    if len(tasks) != len(initial_state_ids):
        raise ValueError(f"{len(tasks)} tasks for {len(initial_state_ids)} initial states; give one for each")
    if not tasks or rollouts < 1:
        raise ValueError("nothing to collect; give at least one initial state and one rollout")
    return [
        Rollout(task, state, rollout_seed(seed, state, index))
        for task, state in zip(tasks, initial_state_ids, strict=True)
        for index in range(rollouts)
    ]


def find_completed(
    rollouts: Iterable[Rollout], entries: Iterable[Entry], policy_version: str, temperature: float
) -> dict[Rollout, Entry]:
    """Return the rollouts that this policy has completed already at this temperature, with their episodes."""
    wanted = set(rollouts)
    completed: dict[Rollout, Entry] = {}
    for entry in entries:
        rollout = Rollout(entry.task, entry.initial_state_id, entry.seed)
        same = entry.policy_version == policy_version and abs(entry.temperature - temperature) < 1e-6
        if same and entry.outcome in COMPLETED and rollout in wanted:
            completed[rollout] = entry
    return completed
