"""A control loop in a thread of its own, with absolute deadlines on the monotonic clock.

An executor's timer waits for whatever callback is running and pays for the executor's bookkeeping at every
tick; a thread that sleeps until its next deadline does neither.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

FIFO_PRIORITY = 40  # as ros2_control's order of magnitude: above all ordinary work, below the kernel's own
NICE = -10
SWITCH_SECONDS = 0.0005  # how long another thread may keep the interpreter from a thread that woke up


class ControlThread:
    """Calls ``tick`` once a ``period`` (s) until it is closed; a late tick comes at once."""

    def __init__(self, period: float, tick: Callable[[], None]) -> None:
        self._period, self._tick = period, tick
        self._stopping = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did.

        Raises:
            RuntimeError: a tick failed.
        """
        if self._error is not None:
            raise RuntimeError(f"the control loop failed: {self._error}") from self._error

    def close(self) -> None:
        """End the thread after its present tick."""
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopping:
                self._tick()
                now = time.monotonic()
                due = max(due + self._period, now - self._period)
                time.sleep(max(0.0, due - now))
        except Exception as error:  # whatever it is, the node must not go on without its loop
            self._error = error


def raise_priority() -> None:
    """Let this process run before all ordinary work, as far as the system permits; new threads inherit it.

    All its threads share the interpreter, so that a preempted one would hold up the control loop. Without the
    right to real-time scheduling (``ulimit -r``) or to a lower nice value (``ulimit -e``) nothing changes.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        except OSError:
            return


def scheduling() -> str:
    """Return how the calling thread is scheduled, e.g. ``real time 40`` or ``nice 0``."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        return f"real time {os.sched_getparam(0).sched_priority}"
    return f"nice {os.getpriority(os.PRIO_PROCESS, 0)}"
