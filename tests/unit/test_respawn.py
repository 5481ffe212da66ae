"""The budget of restarts forgets what is long ago."""

from __future__ import annotations

from grape_policy.respawn import WINDOW_SECONDS, RespawnBudget


def test_a_node_may_be_started_again_so_often_within_the_window() -> None:
    budget = RespawnBudget(2)
    assert [budget.grant(time) for time in (0.0, 1.0, 2.0)] == [True, True, False]
    assert budget.grant(WINDOW_SECONDS + 0.5)  # the first one is forgotten
    assert not budget.grant(WINDOW_SECONDS + 0.6)


def test_a_limit_of_zero_allows_none() -> None:
    assert not RespawnBudget(0).grant(0.0)
