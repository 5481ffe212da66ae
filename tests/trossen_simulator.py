"""Trossen's own simulator of the WidowX AI's controller as a process; SIGUSR1 puts it into an error state."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "127.0.0.1"  # the ports are fixed by the vendor's protocol


@contextmanager
def simulator() -> Iterator[subprocess.Popen[str]]:
    """Run the simulator on the loopback address, one at a time on this machine; wait until it listens."""
    with open(Path(tempfile.gettempdir()) / "trossen-arm-sim.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Serve until killed."""
    from trossen_arm_sim import TrossenArmSimServer, WidowXSim
    from trossen_arm_sim.protocol import ErrorState

    sim = WidowXSim()
    sim.start()
    server = TrossenArmSimServer(sim, host=ADDRESS)
    server.start()
    signal.signal(signal.SIGUSR1, lambda *_: server.fault(ErrorState.JOINT_OVERHEATED, "joint 3 is too hot"))
    print("listening", flush=True)
    parent = os.getppid()
    while os.getppid() == parent:  # nothing of it survives the test run
        time.sleep(0.5)


if __name__ == "__main__":
    main()
