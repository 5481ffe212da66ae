"""What a stage costs: wall and processor time, also of earlier attempts that were killed; and the machine."""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from grape_training.files import read_json, write_json

PERIOD_SECONDS = 10.0


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of processor time, summed over all processes and attempts."""

    wall: float = 0.0
    processor: float = 0.0


class Clock:
    """Counts the cost of the block that it is entered for; what is in ``path`` counts too.

    The file is written every few seconds, so that a kill loses no more than that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        before = read_json(path, "Delete it; hours before are then not counted") if path.exists() else {}
        self._before = Cost(**before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Clock:
        self._started, self._processor = time.monotonic(), processor_seconds()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        write_json(self._path, asdict(self.cost))

    @property
    def cost(self) -> Cost:
        """The cost so far."""
        wall = time.monotonic() - self._started
        processor = processor_seconds() - self._processor
        return Cost(round(self._before.wall + wall, 1), round(self._before.processor + processor, 1))

    def _tick(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            write_json(self._path, asdict(self.cost))


def processor_seconds() -> float:
    """Return the processor time (s) of this process and its children, ended or alive."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in ended)
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:  # its time is among the ended ones from the next call on
            continue
    return total


def machine() -> dict[str, Any]:
    """Describe this machine without naming it: usable cores, processor model, memory in GB."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model.group(1).strip() if model else "unknown",
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
