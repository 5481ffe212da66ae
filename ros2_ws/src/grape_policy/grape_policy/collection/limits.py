"""When a collection must pause or end: quiet hours, running time and disk."""

from __future__ import annotations

import shutil
from datetime import datetime, time, timedelta
from pathlib import Path

from grape_policy.collection.task_list import Limits, parse_window


def quiet_until(now: datetime, windows: tuple[str, ...], margin: timedelta) -> datetime | None:
    """Return when the quiet hours end that are now, or that begin within ``margin``; None: motion is allowed.

    ``now`` in local time; ``margin`` is as long as an episode may last, so that none runs into them.
    """
    ends = [_end_of(now, *parse_window(window), margin) for window in windows]
    return max((end for end in ends if end is not None), default=None)


def _end_of(now: datetime, start: time, end: time, margin: timedelta) -> datetime | None:
    for day in (-1, 0, 1):
        begins = datetime.combine(now.date() + timedelta(days=day), start, now.tzinfo)
        ends = datetime.combine(begins.date() + timedelta(days=end <= start), end, now.tzinfo)
        if begins - margin <= now < ends:
            return ends
    return None


def exhausted(limits: Limits, root: Path, running_seconds: float) -> str:
    """Return which budget is used up, in words; empty while none is."""
    if running_seconds > limits.hours * 3600:
        return f"the time budget of {limits.hours:g} h is used up"
    used = folder_bytes(root) / 1e9
    if used > limits.disk_gigabytes:
        return f"{root} holds {used:.2f} GB, the disk budget is {limits.disk_gigabytes:g} GB"
    free = shutil.disk_usage(root).free / 1e9
    if free < limits.free_gigabytes:
        return f"only {free:.2f} GB are free on the disk of {root}, {limits.free_gigabytes:g} GB are needed"
    return ""


def folder_bytes(root: Path) -> int:
    """Return the size of all files below ``root``; what vanishes meanwhile counts nothing."""
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
