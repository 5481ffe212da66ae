"""Period and work time of a control loop: what the diagnostics say about it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LoopReport:
    """Over the last window: ticks, p99 of jitter (|period - nominal|) and of work in ms, late ticks."""

    ticks: int
    jitter_p99_ms: float
    work_p99_ms: float
    late: int


class LoopTimer:
    """Collects start and end (s) of each tick; late means over half a period away from its time."""

    def __init__(self, period: float, window: int = 1000) -> None:
        self._period = period
        self._starts: deque[float] = deque(maxlen=window)
        self._work: deque[float] = deque(maxlen=window)

    def add(self, start: float, end: float) -> None:
        """Note one tick."""
        self._starts.append(start)
        self._work.append(end - start)

    def report(self) -> LoopReport:
        """Summarise the window; zeros before the second tick."""
        if len(self._starts) < 2:
            return LoopReport(len(self._starts), 0.0, 0.0, 0)
        jitter = np.abs(np.diff(self._starts) - self._period)
        work = float(np.percentile(self._work, 99)) * 1e3
        late = int(np.sum(jitter > self._period / 2))
        return LoopReport(len(self._starts), float(np.percentile(jitter, 99)) * 1e3, work, late)
