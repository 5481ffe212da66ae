"""Measure the camera node over DDS: frames per second, lost frames and latency, from a software camera.

    python benchmarks/camera.py [--seconds 20] [--json]

The node runs as a process on a 640x480 software device of the SDK at 30 Hz (colour, depth, alignment); this
one receives as the policy does. Latency is from the stamp, which is that of the capture, to the arrival.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

TESTS = Path(__file__).resolve().parent.parent / "tests"
START_SECONDS = 60.0


def measure(seconds: float) -> dict[str, Any]:
    """Start the node on a free domain and return the figures of ``seconds`` of receiving."""
    from grape_policy.domain import reserved_domain
    from grape_policy.supervisor import client_environment

    with tempfile.TemporaryDirectory() as logs, reserved_domain() as domain:
        os.environ.update(client_environment(Path(logs), domain))
        command = [sys.executable, str(TESTS / "software_camera_node.py")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            return receive(process.pid, seconds)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)


def receive(pid: int, seconds: float) -> dict[str, Any]:
    """Receive colour and depth as the policy and the recorder do."""
    import rclpy
    from grape_policy.nodes import base
    from grape_policy.nodes.messages import to_nanoseconds

    rclpy.init()
    node = rclpy.create_node("camera_bench")
    stamps: list[tuple[int, int]] = []
    depths: list[int] = []
    values: dict[str, str] = {}

    def on_report(message: Any) -> None:
        for entry in message.status:
            if entry.name == "grape/camera":
                values.update({pair.key: pair.value for pair in entry.values})

    base.subscription(
        node, "color_image", lambda m: stamps.append((to_nanoseconds(m.header.stamp), time.time_ns()))
    )
    base.subscription(node, "depth_image", lambda m: depths.append(to_nanoseconds(m.header.stamp)))
    base.subscription(node, "diagnostics", on_report)
    try:
        end = time.monotonic() + START_SECONDS
        while (len(stamps) < 30 or not values) and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
        stamps.clear()
        depths.clear()
        before = {key: int(float(value)) for key, value in values.items()}
        camera = psutil.Process(pid)
        used, start = sum(camera.cpu_times()[:2]), time.monotonic()
        while time.monotonic() < start + seconds:
            rclpy.spin_once(node, timeout_sec=0.1)
        span = time.monotonic() - start
        cores = (sum(camera.cpu_times()[:2]) - used) / span
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if len(stamps) < 2:
        raise RuntimeError("no images came; is the machine overloaded?")
    lost = {key: int(float(values[key])) - before[key] for key in ("dropped", "late", "repeated")}
    latency = np.array([arrival - stamp for stamp, arrival in stamps]) / 1e6
    return {
        "image": "640x480",
        "color_hz": len(stamps) / span,
        "depth_hz": len(depths) / span,
        "latency_p50_ms": float(np.percentile(latency, 50)),
        "latency_p99_ms": float(np.percentile(latency, 99)),
        "camera_cores": cores,
        **lost,
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.seconds)
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    for name, value in figures.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
