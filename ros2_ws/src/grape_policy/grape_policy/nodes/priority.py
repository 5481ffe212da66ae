"""Which processes of the stack run first when there is more to do than processors.

The arm's controller first, then what an action waits for: camera and policy. The right to raise a priority
may be missing (``ulimit -r``, ``ulimit -e``): then it stays as it is, and ``/diagnostics`` says so.
"""

from __future__ import annotations

import os

FIFO_PRIORITY = 40  # above all ordinary work, below the kernel's own
CONTROLLER_NICE, PREFERRED_NICE = -15, -10


def run_as_controller() -> None:
    """Put this process before all ordinary work, where permitted; new threads inherit it.

    All its threads share the interpreter, so that a preempted one would hold up the control loop.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except OSError:
        _set_nice(CONTROLLER_NICE)


def run_preferred() -> None:
    """Put this process before other ordinary work, where permitted."""
    _set_nice(PREFERRED_NICE)


def _set_nice(value: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except OSError:
        return


def scheduling() -> str:
    """Return how the calling thread is scheduled, e.g. ``real time 40`` or ``nice 0``."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        return f"real time {os.sched_getparam(0).sched_priority}"
    return f"nice {os.getpriority(os.PRIO_PROCESS, 0)}"
