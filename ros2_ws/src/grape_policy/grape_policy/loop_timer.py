"""Times a periodic loop: its period, jitter, starved ticks, and the share of its work of each section."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Mark = Callable[[str], None]  # called at the end of a section of the work, with its name


def unmarked(section: str) -> None:
    """Time nothing: the ``Mark`` of a caller that does not care."""


@dataclass(frozen=True)
class LoopReport:
    """Over the last window: ticks, mean period, p99 of jitter (|period - nominal|) and of work, starved.

    ``shares``: section -> its share of the work since the report before.
    """

    ticks: int
    period_ms: float
    jitter_p99_ms: float
    work_p99_ms: float
    starved: int
    shares: dict[str, float]

    def values(self) -> dict[str, str]:
        """Return the report as key-value pairs of ``/diagnostics``."""
        numbers = {"period_ms": self.period_ms, "jitter_p99_ms": self.jitter_p99_ms}
        numbers["work_p99_ms"] = self.work_p99_ms
        values = {name: f"{value:.3f}" for name, value in numbers.items()} | {
            "starved_ticks": str(self.starved)
        }
        return values | {f"share_{name}": f"{share:.2f}" for name, share in self.shares.items()}


class LoopTimer:
    """Collects the ticks of one thread; a starved tick began over half a period away from its time.

    Either call ``begin``, ``mark`` after each section and ``end``, or ``add`` with times of your own.
    ``report`` may be called by another thread.
    """

    def __init__(self, period: float, window: int = 1000) -> None:
        """Expect a tick every ``period`` s; keep the last ``window`` ticks."""
        self._period = period
        self._starts: deque[float] = deque(maxlen=window)
        self._work: deque[float] = deque(maxlen=window)
        self._spent: dict[str, float] = {}  # s by section since the last report
        self._began = self._marked = 0.0

    def begin(self) -> None:
        """A tick begins now."""
        self._began = self._marked = time.monotonic()

    def mark(self, section: str) -> None:
        """What was done since ``begin`` or the last mark was ``section``."""
        now = time.monotonic()
        self._spent[section] = self._spent.get(section, 0.0) + now - self._marked
        self._marked = now

    def end(self) -> None:
        """The tick ends now."""
        self.add(self._began, time.monotonic())

    def add(self, start: float, end: float) -> None:
        """Note one tick (monotonic s)."""
        self._starts.append(start)
        self._work.append(end - start)

    def pause(self) -> None:
        """No tick is due for a while: the time until the next one is no period."""
        self._starts.append(np.nan)

    def report(self) -> LoopReport:
        """Summarise the window; zeros before the second tick."""
        spent, self._spent = self._spent, {}
        total = sum(spent.values())
        shares = {name: seconds / total for name, seconds in spent.items() if total > 0}
        periods = np.diff(list(self._starts))
        periods = periods[~np.isnan(periods)]
        if not len(periods):
            return LoopReport(len(self._work), 0.0, 0.0, 0.0, 0, shares)
        jitter = np.abs(periods - self._period)
        return LoopReport(
            ticks=len(self._work),
            period_ms=float(periods.mean()) * 1e3,
            jitter_p99_ms=float(np.percentile(jitter, 99)) * 1e3,
            work_p99_ms=float(np.percentile(list(self._work), 99)) * 1e3,
            starved=int(np.sum(jitter > self._period / 2)),
            shares=shares,
        )
