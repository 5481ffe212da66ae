"""What the running graph says about itself on ``/diagnostics``; printed by ``grape doctor --live``."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from grape_policy.live_table import NodeReport
from grape_policy.nodes import base

LISTEN_SECONDS = 3.0  # every node reports once a second
PREFIX = "grape/"


def listen(seconds: float = LISTEN_SECONDS, domain_id: int | None = None) -> list[NodeReport]:
    """Return the newest report of each node of the stack heard within ``seconds``, by name."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = rclpy.create_node("doctor", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    reports: dict[str, NodeReport] = {}

    def note(message: Any) -> None:
        for status in message.status:
            if status.name.startswith(PREFIX):
                values = {pair.key: pair.value for pair in status.values}
                name, level = status.name.removeprefix(PREFIX), ord(status.level)
                reports[name] = NodeReport(name, level, status.message, values)

    try:
        base.subscription(node, "diagnostics", note)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    return [reports[name] for name in sorted(reports)]
