"""A loop's timing as it is measured, published and shown."""

from __future__ import annotations

import time

import pytest
from grape_policy.live_table import NodeReport, live_table
from grape_policy.loop_timer import LoopTimer


def test_starved_ticks_and_jitter() -> None:
    timer = LoopTimer(0.02)
    assert timer.report().ticks == 0
    for start in (0.00, 0.02, 0.04, 0.10, 0.12):
        timer.add(start, start + 0.003)
    report = timer.report()
    assert report.starved == 1
    assert report.period_ms == pytest.approx(30)
    assert report.jitter_p99_ms == pytest.approx(40, abs=2)
    assert report.work_p99_ms == pytest.approx(3)


def test_a_pause_is_no_period() -> None:
    timer = LoopTimer(0.2)
    for start in (0.0, 0.2):
        timer.add(start, start + 0.01)
    timer.pause()
    for start in (60.0, 60.2):
        timer.add(start, start + 0.01)
    report = timer.report()
    assert report.starved == 0
    assert report.period_ms == pytest.approx(200)
    assert report.ticks == 4


def test_shares_of_the_sections_are_those_of_the_work_since_the_last_report() -> None:
    timer = LoopTimer(0.01)
    timer.begin()
    time.sleep(0.03)
    timer.mark("read")
    time.sleep(0.01)
    timer.mark("write")
    timer.end()
    shares = timer.report().shares
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["read"] > shares["write"] > 0
    assert timer.report().shares == {}


def test_the_table_shows_each_loop_with_its_largest_section_first() -> None:
    timer = LoopTimer(0.01)
    for start in (0.0, 0.01, 0.02):
        timer.add(start, start + 0.001)
    values = timer.report().values() | {"share_ik": "0.25", "share_check": "0.75"}
    reports = [
        NodeReport("arm", 2, "stopped", values),
        NodeReport("lifecycle", 0, "all nodes are active", {}),
    ]
    lines = live_table(reports).splitlines()
    assert lines[1].split() == ["arm", "ERROR", "stopped"]
    assert lines[2].split()[:2] == ["lifecycle", "ok"]
    assert "10.0 ms" in lines[5]
    assert lines[5].endswith("check 75%, ik 25%")
    assert len(lines) == 6
