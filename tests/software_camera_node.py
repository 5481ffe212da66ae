"""The camera node as a process on a software camera; SIGUSR1 unplugs it, SIGUSR2 plugs a new one in.

``python software_camera_node.py [--rate HZ] [--ros-args ...]``; serial numbers are those asked for.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from grape_policy.camera.types import CameraError
from grape_policy.nodes import base
from grape_policy.nodes.camera_node import CameraNode
from software_camera import SERIAL, Feeder, SoftwareCamera


class Bench:
    """Cameras by serial number, each fed from its own thread while plugged in."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._feeders: dict[str, Feeder] = {}
        self._cameras: dict[str, SoftwareCamera] = {}
        self.plugged = True

    def find(self, serial: str) -> Any:
        if not self.plugged:
            raise CameraError("no RealSense camera is connected")
        serial = serial or SERIAL
        if serial not in self._cameras:
            self._cameras[serial] = SoftwareCamera(serial)
            self._feeders[serial] = Feeder(self._cameras[serial], rate_hz=self._rate_hz)
        return self._cameras[serial].device

    def unplug(self, *_: Any) -> None:
        self.plugged = False
        for feeder in self._feeders.values():
            feeder.stop()
        self._feeders.clear()
        self._cameras.clear()

    def plug_in(self, *_: Any) -> None:
        self.plugged = True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=30.0)
    options, rest = parser.parse_known_args()
    bench = Bench(options.rate)
    signal.signal(signal.SIGUSR1, bench.unplug)
    signal.signal(signal.SIGUSR2, bench.plug_in)
    return base.spin(lambda: CameraNode(bench.find), [sys.argv[0], *rest])


if __name__ == "__main__":
    sys.exit(main())
