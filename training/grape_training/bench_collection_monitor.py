"""Listens to a graph under test from outside: which episodes began, all motion, all safety states."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from grape_policy import stack


@dataclass
class Log:
    """What was seen: commands (arrival s, stamp s, joints (6,) rad), states (arrival s, armed)."""

    commands: list[tuple[float, float, list[float]]] = field(default_factory=list)
    states: list[tuple[float, bool]] = field(default_factory=list)


class Monitor:
    """A node in a thread of this process; use it in a ``with`` block."""

    def __init__(self, domain: int) -> None:
        os.environ.update(stack.environment())
        import rclpy
        from grape_policy.nodes import base
        from grape_sim.faulty_node import FAULT_TOPIC
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import String

        self.started: list[str] = []
        self.log = Log()
        self._stopping = False
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("monitor", context=self._context)
        base.subscription(self._node, "episode_event", self._on_event)
        base.subscription(self._node, "joint_command", self._on_command)
        base.subscription(self._node, "safety_state", self._on_state)
        self._faults, self._text = self._node.create_publisher(String, FAULT_TOPIC, 10), String
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import rclpy

        self._stopping = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def fault(self, kind: str, seconds: float) -> bool:
        """Ask the simulation for a fault; return whether it is there to hear it."""
        self._faults.publish(self._text(data=f"{kind} {seconds}"))
        return bool(self._faults.get_subscription_count() > 0)

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.1)

    def _on_event(self, message: Any) -> None:
        if message.event == message.STARTED:
            self.started.append(str(message.episode_id))

    def _on_command(self, message: Any) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.log.commands.append((time.monotonic(), stamp, list(message.position[:-1])))

    def _on_state(self, message: Any) -> None:
        self.log.states.append((time.monotonic(), message.state == message.ARMED))
