"""The control loop's thread: absolute deadlines, no bursts, and errors that are not swallowed."""

from __future__ import annotations

import time

import pytest
from grape_policy.nodes.control_thread import ControlThread

PERIOD = 0.02


def test_ticks_keep_their_grid() -> None:
    """A tick that takes half a period does not make the next one late: deadlines are absolute."""
    starts: list[float] = []

    def tick() -> None:
        starts.append(time.monotonic())
        time.sleep(PERIOD / 2)

    thread = ControlThread(PERIOD, tick)
    time.sleep(50 * PERIOD)
    thread.close()
    elapsed = starts[-1] - starts[0]
    assert len(starts) - 1 == pytest.approx(elapsed / PERIOD, abs=5)  # relative ones would give a third less


def test_what_was_missed_is_not_made_up_for() -> None:
    starts: list[float] = []

    def tick() -> None:
        starts.append(time.monotonic())
        if len(starts) == 5:
            time.sleep(20 * PERIOD)

    thread = ControlThread(PERIOD, tick)
    time.sleep(40 * PERIOD)
    thread.close()
    after = [start for start in starts[5:] if start < starts[4] + 21 * PERIOD]
    assert len(after) <= 3


def test_an_error_in_a_tick_is_raised_where_it_is_asked_for() -> None:
    def tick() -> None:
        raise ZeroDivisionError("by the arm")

    thread = ControlThread(PERIOD, tick)
    thread.close()
    with pytest.raises(RuntimeError, match="control loop failed: by the arm"):
        thread.check()
