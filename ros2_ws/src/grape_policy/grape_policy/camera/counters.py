"""Which frames are new, and how many were lost, late or repeated."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from grape_policy.camera.types import RawFrame

LATE_PERIODS = 1.5  # an interval longer than this is a late frame
MOST_DROPPED = 10_000  # a larger step of the counter is a restart of it, not a loss


@dataclass
class FrameCounts:
    """Since the node started.

    Attributes:
        published: frames handed on.
        dropped: frames missing between two, by the camera's own counter.
        late: intervals of arrival of more than one and a half periods.
        repeated: frames refused because number, time or stamp was not newer than the last one's.
        without_depth: frames handed on without a depth image of the same moment.
        reconnects: how often the camera was opened again.
    """

    published: int = 0
    dropped: int = 0
    late: int = 0
    repeated: int = 0
    without_depth: int = 0
    reconnects: int = 0


class FrameGuard:
    """Lets only new frames pass, and counts the others; ``restart`` before each stretch of streaming."""

    def __init__(self, rate_hz: float, counts: FrameCounts) -> None:
        self._period = 1.0 / rate_hz
        self._counts = counts
        self._arrivals: deque[float] = deque(maxlen=30)
        self.restart()

    @property
    def rate_hz(self) -> float:
        """Frames per second over the last 30; 0 before the second."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)

    def restart(self) -> None:
        """Forget the last frame: counter and clock of the next one may begin anywhere."""
        self._last: tuple[int, float] | None = None
        self._last_stamp = 0
        self._arrivals.clear()

    def admit(self, frame: RawFrame, stamp_ns: int, now: float) -> bool:
        """Return whether ``frame``, stamped ``stamp_ns`` and here at ``now`` (monotonic s), is a new one."""
        if not self._is_newer(frame) or stamp_ns <= self._last_stamp:
            self._counts.repeated += 1
            return False
        if self._last is not None:
            step = frame.number - self._last[0]
            self._counts.dropped += step - 1 if 1 < step <= MOST_DROPPED else 0
            self._counts.late += now - self._arrivals[-1] > LATE_PERIODS * self._period
        self._last, self._last_stamp = (frame.number, frame.time_ms), stamp_ns
        self._arrivals.append(now)
        self._counts.published += 1
        self._counts.without_depth += frame.depth is None
        return True

    def _is_newer(self, frame: RawFrame) -> bool:
        """One of counter and clock may have begun again; when both stand or go back, it is no new frame."""
        if self._last is None:
            return True
        number, time_ms = self._last
        if frame.number == number or frame.time_ms == time_ms:
            return False
        return frame.number > number or frame.time_ms > time_ms
