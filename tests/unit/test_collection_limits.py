"""Quiet hours, budgets and the journal that a restart goes by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from grape_policy.collection.journal import Attempt, Journal
from grape_policy.collection.limits import exhausted, folder_bytes, quiet_until
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.task_list import Limits

NIGHT = ("22:00-07:00",)
ROLLOUT = Rollout("stack_cube", "stack_cube/collect/0000", 5)


def at(clock: str, day: int = 10) -> datetime:
    return datetime.fromisoformat(f"2026-03-{day:02d}T{clock}").astimezone()


@pytest.mark.parametrize(
    ("now", "windows", "end"),
    [
        (at("21:58"), NIGHT, None),
        (at("21:59"), NIGHT, at("07:00", 11)),  # an episode of a minute would run into them
        (at("23:30"), NIGHT, at("07:00", 11)),
        (at("03:00"), NIGHT, at("07:00")),
        (at("06:59"), NIGHT, at("07:00")),
        (at("07:00"), NIGHT, None),
        (at("12:30"), ("12:00-13:00",), at("13:00")),
        (at("12:30"), ("12:00-13:00", "12:15-14:00"), at("14:00")),
        (at("12:30"), (), None),
    ],
)
def test_nothing_moves_in_quiet_hours(now: datetime, windows: tuple[str, ...], end: datetime | None) -> None:
    assert quiet_until(now, windows, timedelta(minutes=1)) == end


def test_each_budget_ends_the_collection_with_its_figures(tmp_path: Path) -> None:
    assert exhausted(Limits(free_gigabytes=0), tmp_path, 60.0) == ""
    assert "2 h is used up" in exhausted(Limits(hours=2), tmp_path, 7201.0)
    (tmp_path / "episode").mkdir()
    (tmp_path / "episode" / "data").write_bytes(bytes(20_000))
    assert folder_bytes(tmp_path) == 20_000
    assert "disk budget is 1e-05 GB" in exhausted(Limits(disk_gigabytes=1e-5), tmp_path, 0.0)
    assert "are needed" in exhausted(Limits(free_gigabytes=1e6), tmp_path, 0.0)


def attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "task": ROLLOUT.task,
        "initial_state_id": ROLLOUT.initial_state_id,
        "seed": ROLLOUT.seed,
        "policy_version": "a",
        "episode_id": "one",
        "accepted": True,
        "stop_reason": "",
        "message": "",
        "success": True,
        "steps": 9,
        "temperature": 0.5,
        "time": "2026-03-10T12:00:00+00:00",
        "seconds": 10.0,
    }
    return Attempt(**fields | changes)


@pytest.fixture
def book(tmp_path: Path) -> Callable[[], Journal]:
    return lambda: Journal(tmp_path / "list" / "journal.jsonl", 0.5)


def test_the_journal_is_read_back_and_tells_policies_and_temperatures_apart(
    book: Callable[[], Journal],
) -> None:
    first = book()
    for row in (
        attempt(episode_id="bad", accepted=False, stop_reason="IMAGE_FROZEN", success=False),
        attempt(),
        attempt(episode_id="other", policy_version="b"),
        attempt(episode_id="hot", temperature=1.0, accepted=False),
    ):
        first.add(row)
    again = book()
    assert again.attempts == first.attempts
    assert again.accepted("a") == {ROLLOUT: attempt()}
    assert again.failures("a") == {ROLLOUT: 1}
    assert again.accepted("c") == {}
    assert again.find("hot") == attempt(episode_id="hot", temperature=1.0, accepted=False)
    assert again.find("never") is None
    assert again.seconds() == 40.0


def test_half_a_line_left_by_a_kill_is_dropped(book: Callable[[], Journal], tmp_path: Path) -> None:
    book().add(attempt())
    path = tmp_path / "list" / "journal.jsonl"
    with path.open("ab") as file:
        file.write(b'{"task": "stack_cu')
    cut = book()
    assert [row.episode_id for row in cut.attempts] == ["one"]
    cut.add(attempt(episode_id="two"))
    assert [row.episode_id for row in book().attempts] == ["one", "two"]


def test_a_damaged_journal_is_refused(book: Callable[[], Journal], tmp_path: Path) -> None:
    book().add(attempt())
    path = tmp_path / "list" / "journal.jsonl"
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(ValueError, match="is damaged"):
        book()
