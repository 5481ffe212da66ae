"""A control loop in a thread of its own, with absolute deadlines on the monotonic clock.

An executor's timer waits for whatever callback is running and pays for the executor's bookkeeping at every
tick; a thread that sleeps until its next deadline does neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


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
