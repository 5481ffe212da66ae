"""The simulated robot with faults on request, for tests and benchmarks only; no stack starts it by itself.

Publish ``<fault> <seconds>`` on the topic ``/grape/sim/fault`` (std_msgs/String):

- ``camera_frozen``: the same picture again and again, with fresh stamps;
- ``camera_silent``: no images, while the camera's process lives;
- ``arm_disconnected``: no joint states and no pose, commands are lost;
- ``clock_jump``: camera and arm stamp what they send three seconds late;
- ``bad_reset``: the next reset within that time says it went well, but the task's object lies elsewhere.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import mujoco
from grape_policy.nodes import base
from std_msgs.msg import String

from grape_sim.camera_thread import Frame
from grape_sim.node import SimNode

FAULT_TOPIC = "/grape/sim/fault"
FAULTS = ("camera_frozen", "camera_silent", "arm_disconnected", "clock_jump", "bad_reset")
CLOCK_JUMP_NS = 3_000_000_000
DISPLACEMENT = 0.06  # m


class FaultySimNode(SimNode):
    """Misbehaves below the publishers and services, so that everything above meets the real thing."""

    def __init__(self) -> None:
        self._until = dict.fromkeys(FAULTS, 0.0)
        self._shown: dict[str, Frame] = {}  # the newest real image of colour and of depth
        super().__init__()

    def activate(self) -> None:
        """Let time run, and listen for faults."""
        super().activate()
        self.create_subscription(String, FAULT_TOPIC, self._on_fault, 10)

    def _on_fault(self, message: Any) -> None:
        name, seconds = message.data.split()
        self._until[name] = time.monotonic() + float(seconds)
        self.get_logger().warning(f"fault: {message.data}")

    def _has(self, fault: str) -> bool:
        return time.monotonic() < self._until[fault]

    def _now_ns(self) -> int:
        return super()._now_ns() - (CLOCK_JUMP_NS if self._has("clock_jump") else 0)

    def _publish_frame(self, frame: Frame) -> None:
        if self._has("camera_silent"):
            return
        if not self._has("camera_frozen") or frame.key not in self._shown:
            self._shown[frame.key] = frame
        super()._publish_frame(replace(self._shown[frame.key], stamp_ns=frame.stamp_ns))

    def _publish_state(self) -> None:
        if not self._has("arm_disconnected"):
            super()._publish_state()

    def _on_command(self, message: Any) -> None:
        if not self._has("arm_disconnected"):
            super()._on_command(message)

    def _reset(self, initial_state_id: str, task: str | None) -> None:
        super()._reset(initial_state_id, task)
        if self._has("bad_reset"):
            self._until["bad_reset"] = 0.0
            self._displace()

    def _displace(self) -> None:
        """Move the task's object towards the table's middle, where there is room to the side it is not on."""
        environment = self._environment
        data = environment.data
        address = int(environment.model.joint(environment.task.source).qposadr[0])
        side = -1.0 if data.qpos[address + 1] > 0 else 1.0
        data.qpos[address + 1] += side * DISPLACEMENT
        data.qpos[address + 2] += 0.005
        mujoco.mj_forward(environment.model, data)


def main(arguments: list[str] | None = None) -> int:
    """Run the faulty simulation until it is stopped."""
    return base.spin(FaultySimNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
