"""One supervised process: it cannot outlive its parent, is read line by line and is stopped in steps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)
LIBC = ctypes.CDLL(None)  # loaded before any fork
READY_LINE = "ready"
STOP_STEPS = ((signal.SIGINT, 8.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))  # signal, seconds to wait
LAST_LINES = 12
LINE_LIMIT = 1 << 20  # bytes; longer lines end the reading with an error


def _die_with_parent(parent: int) -> None:
    """Run in the child before exec: ask the kernel to kill it when its parent dies, even by SIGKILL.

    SIGINT gets its default back, since a parent started in the background by a shell ignores it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


class SupervisedProcess:
    """A child process in its own session (Ctrl+C reaches it only through us) with its output in a log file.

    Attributes:
        ready: set when the process has printed the line ``ready``.
        last_lines: the end of its output, for messages about its death.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.command, self.environment, self.log = name, list(command), dict(environment), log
        self.ready = asyncio.Event()
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

    async def run(self, on_line: Callable[[str, str], None]) -> int:
        """Start the process, pass each line of output to ``on_line(name, line)``, return its exit code."""
        parent = os.getpid()
        self.ready.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_LIMIT,
            start_new_session=True,
            preexec_fn=lambda: _die_with_parent(parent),
        )
        await self._read(self._process, on_line)
        return await self._process.wait()

    async def _read(self, process: asyncio.subprocess.Process, on_line: Callable[[str, str], None]) -> None:
        assert process.stdout is not None
        with self.log.open("a", encoding="utf-8") as log:
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip("\n")
                log.write(line + "\n")
                log.flush()
                self.last_lines.append(line)
                if line == READY_LINE:
                    self.ready.set()
                on_line(self.name, line)

    async def stop(self) -> None:
        """Interrupt, then terminate, then kill; returns when the process has ended."""
        process = self._process
        for number, seconds in STOP_STEPS:
            if process is None or process.returncode is not None:
                return
            try:
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)  # a suspended process would not notice
                await asyncio.wait_for(process.wait(), seconds)
            except ProcessLookupError:
                return
            except TimeoutError:
                print(f"{self.name}: still running {seconds:g} s after {number.name}", file=sys.stderr)
