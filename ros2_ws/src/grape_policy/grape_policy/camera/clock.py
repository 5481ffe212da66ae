"""From the camera's time to ROS time.

A frame is captured, read out, sent over USB and handed to us some milliseconds later. Its stamp should say
when it was captured. The SDK gives a time of capture on one of two clocks. On the host's it is taken as it
is. On the device's own counter only differences mean something: the offset to ROS time is the smallest
(arrival - capture) of the last seconds, that of the frame that came through quickest. Such stamps are late by
this smallest delay, but free of the jitter of the others; the window follows the drift between the clocks.
"""

from __future__ import annotations

from collections import deque

from grape_policy.camera.types import Clock

WINDOW_NS = 10_000_000_000  # 50 ppm of drift make 0.5 ms of it
JUMP_NS = 500_000_000  # further off than this is no delay of a frame
PATIENCE = 10  # frames in a row that are further off: it was not the frames but a clock that jumped


class StampMapper:
    """Maps times of capture to ROS time; one for each stretch of streaming.

    Attributes:
        jumps: how often a clock was found to have jumped, so that the offset was measured anew.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self._offsets: deque[tuple[int, int]] = deque()  # (arrival, arrival - capture), ns
        self._last_ns = 0
        self._far = 0

    def stamp(self, time_ms: float, clock: Clock, arrival_ns: int) -> int:
        """Return the ROS time (ns) of a capture at ``time_ms``, never later than its arrival."""
        captured_ns = round(time_ms * 1e6)
        if clock is Clock.ARRIVAL:
            return arrival_ns
        if clock is Clock.HOST and 0 <= arrival_ns - captured_ns <= JUMP_NS:
            return captured_ns
        return min(captured_ns + self._offset(captured_ns, arrival_ns), arrival_ns)

    def _offset(self, captured_ns: int, arrival_ns: int) -> int:
        found = arrival_ns - captured_ns
        if self._offsets and self._jumped(captured_ns, found - self._smallest()):
            self._offsets.clear()
            self.jumps += 1
        self._last_ns = captured_ns
        self._offsets.append((arrival_ns, found))
        while arrival_ns - self._offsets[0][0] > WINDOW_NS:
            self._offsets.popleft()
        return self._smallest()

    def _smallest(self) -> int:
        return min(offset for _, offset in self._offsets)

    def _jumped(self, captured_ns: int, change_ns: int) -> bool:
        """Whether a clock jumped: time runs backwards, or many frames in a row are too early or too late."""
        self._far = self._far + 1 if change_ns > JUMP_NS else 0
        back = captured_ns < self._last_ns
        if not (back or change_ns < -JUMP_NS or self._far >= PATIENCE):
            return False
        self._far = 0
        return True
