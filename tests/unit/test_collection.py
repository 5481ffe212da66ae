"""Which rollouts a collection runs: seeds are fixed for ever, and what is complete is not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grape_episodes.catalogue import Entry
from grape_policy.collection.rollouts import Rollout, find_completed, plan, rollout_seed

STATES = ["stack_cube/collect/0000", "stack_cube/collect/0001"]


def entry(rollout: Rollout, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "episode_id": f"{rollout.initial_state_id}-{rollout.seed}",
        "folder": Path("somewhere"),
        "task": rollout.task,
        "initial_state_id": rollout.initial_state_id,
        "policy_version": "a-00000000",
        "temperature": 0.7,
        "seed": rollout.seed,
        "outcome": "failure",
        "success": False,
        "steps": 50,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Entry(**(fields | changes))


def test_seeds_never_change_and_differ_between_rollouts() -> None:
    assert rollout_seed(0, STATES[0], 0) == 3204465980
    seeds = {rollout_seed(seed, state, index) for seed in range(5) for state in STATES for index in range(20)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_longer_plan_begins_with_the_same_rollouts() -> None:
    tasks = ["stack_cube"] * 2
    short, long = plan(tasks, STATES, 2, seed=3), plan(tasks, STATES, 4, seed=3)
    assert set(short) < set(long)
    assert [rollout.initial_state_id for rollout in short] == [STATES[0]] * 2 + [STATES[1]] * 2


@pytest.mark.parametrize(
    ("tasks", "states", "rollouts", "complaint"),
    [
        (["a"], STATES, 1, "1 tasks for 2"),
        ([], [], 1, "nothing to collect"),
        (["a"], STATES[:1], 0, "nothing"),
    ],
)
def test_senseless_plans_are_refused(
    tasks: list[str], states: list[str], rollouts: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        plan(tasks, states, rollouts, seed=0)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"outcome": "success"}, True),
        ({"outcome": "stopped"}, True),
        ({"temperature": 0.699999988079071}, True),  # 0.7 on its way through a float32 message
        ({"outcome": "aborted"}, False),
        ({"policy_version": "b-11111111"}, False),
        ({"temperature": 1.0}, False),
        ({"seed": 1}, False),
        ({"task": "carrot_on_plate"}, False),
    ],
)
def test_only_the_same_rollout_of_the_same_policy_counts_as_complete(
    changes: dict[str, Any], counts: bool
) -> None:
    (rollout,) = plan(["stack_cube"], STATES[:1], 1, seed=0)
    completed = find_completed([rollout], [entry(rollout, **changes)], "a-00000000", 0.7)
    assert bool(completed) == counts
