"""Makes faults happen to the processes of a running collection, and ends them again."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from grape_training.bench_collection_monitor import Monitor

SIMULATED = {"camera_frozen": 2.0, "camera_silent": 1.0, "arm_disconnected": 1.0, "clock_jump": 2.0}  # s
BAD_RESET_SECONDS = 60.0  # the next reset comes within that time
SLOW_SECONDS = 1.0
FULL_SECONDS, FULL_BYTES = 4.0, 4096
NODES = {
    "policy_killed": "policy_node",
    "slow_policy": "policy_node",
    "recorder_killed": "recorder_node",
    "disk_full": "recorder_node",
}
FAULTS = (*SIMULATED, "bad_reset", *NODES, "power_lost")
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Fault:
    """One fault: ``delay`` seconds after the episode number ``episode`` (counted over all attempts) began."""

    episode: int
    kind: str
    delay: float


def schedule(episodes: int, share: float, seed: int) -> list[Fault]:
    """Return the faults of a run: spread over its first episodes, all kinds equally often."""
    rng = random.Random(seed)
    count = round(episodes * share)
    kinds = [FAULTS[i % len(FAULTS)] for i in range(count)]
    rng.shuffle(kinds)
    places = sorted(rng.sample(range(episodes), count))
    return [Fault(n, kind, rng.uniform(0.3, 3.0)) for n, kind in zip(places, kinds, strict=True)]


class Injector:
    """Injects the faults in ``waiting`` into one running collection; those not yet due stay there."""

    def __init__(self, child: subprocess.Popen[bytes], monitor: Monitor, waiting: list[Fault]) -> None:
        self._child, self._monitor, self._waiting = child, monitor, waiting
        self._due: list[tuple[float, Fault]] = []
        self._undo: list[tuple[float, Callable[[], bool]]] = []
        self.injected: list[Fault] = []

    def step(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        while self._waiting and self._waiting[0].episode < len(self._monitor.started):
            fault = self._waiting.pop(0)
            self._due.append((now + fault.delay, fault))
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            if self._inject(entry[1].kind):
                self.injected.append(entry[1])
            else:  # its process is being started again after an earlier fault
                self._due.append((now + RETRY_SECONDS, entry[1]))
        for step in [step for step in self._undo if step[0] <= now]:
            self._undo.remove(step)
            step[1]()

    def close(self) -> None:
        """End what lasts, and put back what was not injected: it comes after the next start."""
        for _, undo in self._undo:
            undo()
        self._waiting[:0] = [fault for _, fault in self._due]

    def _inject(self, kind: str) -> bool:
        """Make one fault happen; return whether it could."""
        if kind == "power_lost":
            self._child.kill()
        elif kind in NODES:
            pid = find_node(self._child.pid, NODES[kind])
            return pid is not None and self._strike(kind, pid)
        else:
            return self._monitor.fault(kind, SIMULATED.get(kind, BAD_RESET_SECONDS))
        return True

    def _strike(self, kind: str, pid: int) -> bool:
        now = time.monotonic()
        if kind == "slow_policy":
            self._undo.append((now + SLOW_SECONDS, lambda: _signal(pid, signal.SIGCONT)))
            return _signal(pid, signal.SIGSTOP)
        if kind == "disk_full":
            self._undo.append((now + FULL_SECONDS, lambda: _limit_files(pid, resource.RLIM_INFINITY)))
            return _limit_files(pid, FULL_BYTES)
        return _signal(pid, signal.SIGKILL)


def _limit_files(pid: int, size: int) -> bool:
    """Let every write beyond ``size`` bytes of a file fail, as on a full disk."""
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    except ProcessLookupError:
        return False
    return True


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def find_node(parent: int, name: str) -> int | None:
    """Return the process below ``parent`` that runs the node module ``name``."""
    for process in family(parent):
        try:
            if any(name in part for part in process.cmdline()):
                return int(process.pid)
        except psutil.NoSuchProcess:
            continue
    return None


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
