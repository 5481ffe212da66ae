"""One camera in a thread: opens it, stamps and delivers its new frames, opens it again when it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grape_policy.camera.clock import StampMapper
from grape_policy.camera.counters import FrameCounts, FrameGuard
from grape_policy.camera.types import (
    CameraError,
    CameraSettingsError,
    EndOfPlayback,
    Intrinsics,
    RawFrame,
    Source,
)

FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0  # s between two attempts to open; it doubles
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class StampedFrame:
    """A new frame: uint8 (H, W, 3) RGB, uint16 (H, W) mm or None, and its ROS time of capture (ns).

    The arrays may be gone when ``deliver`` has returned: who needs them longer copies them.
    """

    colour: np.ndarray
    depth: np.ndarray | None
    stamp_ns: int


class Capture:
    """Keeps one camera running.

    Args:
        open_source: opens the camera; called in the thread, again after each failure.
        deliver: gets each new frame and the camera's intrinsics, in the thread.
        now_ns: ROS time (ns).
        rate_hz: nominal frames per second.
        timeout: s without a new frame after which the camera counts as lost.
        loop: play again from the beginning when a recording ends.

    Attributes:
        counts: what became of the frames so far.
        state: in words, for people.
        streaming: whether new frames are coming.
        finished: None while running; then "" at the end of a recording, or why it cannot run.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        deliver: Callable[[StampedFrame, Intrinsics], None],
        now_ns: Callable[[], int],
        *,
        rate_hz: float,
        timeout: float = 1.0,
        loop: bool = False,
    ) -> None:
        self.counts = FrameCounts()
        self.state, self.streaming = "starting", False
        self.finished: str | None = None
        self._open_source, self._deliver, self._now_ns = open_source, deliver, now_ns
        self._timeout, self._loop = timeout, loop
        self._guard, self._mapper = FrameGuard(rate_hz, self.counts), StampMapper()
        self._jumps = 0  # of the mappers before this one
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    @property
    def rate_hz(self) -> float:
        """Frames per second of late."""
        return self._guard.rate_hz if self.streaming else 0.0

    @property
    def clock_jumps(self) -> int:
        """How often a clock jumped, here or in the camera."""
        return self._jumps + self._mapper.jumps

    def close(self) -> None:
        """End the thread and close the camera."""
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            before = self.counts.published
            try:
                self._play()
            except EndOfPlayback:
                if self.counts.published == before:
                    return self._finish("there are no frames in what is to be played")
                if not self._loop:
                    return self._finish("")
            except (CameraError, CameraSettingsError) as error:
                if isinstance(error, CameraSettingsError) and not self.counts.published:
                    return self._finish(str(error))
                delay = FIRST_DELAY if self.counts.published > before else min(2.0 * delay, LONGEST_DELAY)
                self._wait(error, delay)
            except Exception as error:  # a fault of the program must show, not vanish with its thread
                return self._finish(f"{type(error).__name__}: {error}")
        return None

    def _finish(self, reason: str) -> None:
        self.streaming, self.finished = False, reason
        self.state = reason or "played to the end"

    def _wait(self, error: Exception, delay: float) -> None:
        self.streaming = False
        self.state = f"{error}; next attempt in {delay:g} s"
        self._stopping.wait(delay)
        self.counts.reconnects += 1

    def _play(self) -> None:
        """Open the camera and deliver its frames until it fails, ends or is closed."""
        source = self._open_source()
        try:
            self._guard.restart()
            self._jumps, self._mapper = self.clock_jumps, StampMapper()
            newest = time.monotonic()
            while not self._stopping.is_set():
                frame = source.read(POLL_SECONDS)
                if frame is not None and self._take(frame, source):
                    newest = time.monotonic()
                elif time.monotonic() - newest > self._timeout:
                    raise CameraError(f"{source.name}: no new frame for {self._timeout:g} s")
        finally:
            source.close()

    def _take(self, frame: RawFrame, source: Source) -> bool:
        arrival_ns, now = self._now_ns(), time.monotonic()
        stamp_ns = self._mapper.stamp(frame.time_ms, frame.clock, arrival_ns)
        if not self._guard.admit(frame, stamp_ns, now):
            return False
        self.streaming, self.state = True, f"{source.name} streams"
        self._deliver(StampedFrame(frame.colour, frame.depth, stamp_ns), source.intrinsics)
        return True
