"""Which processes are left: a zombie has ended and only waits for whoever inherited it to notice."""

from __future__ import annotations

from collections.abc import Sequence

import psutil


def survivors(processes: Sequence[psutil.Process], timeout: float = 5.0) -> list[psutil.Process]:
    """Return those that still run after ``timeout`` seconds at the most."""
    _, left = psutil.wait_procs(processes, timeout=timeout)
    return [process for process in left if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
