"""Notices that another node of the stack has ended or hangs; slower than the arm's own watchdogs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rclpy.node import Node

from grape_policy.nodes import base

SILENCE_SECONDS = 1.5
CHECK_SECONDS = 0.25
PEER_RATE_HZ = 4.0  # of the heartbeats of nodes that only these watches look at


class Peers:
    """Calls ``lost(name)`` once when a node that was heard has fallen silent; others are not missed.

    Heartbeats are taken from their topic; other signs of life are handed to ``heard``.
    """

    def __init__(self, node: Node, names: Sequence[str], lost: Callable[[str], None]) -> None:
        self._names, self._lost = frozenset(names), lost
        self._last: dict[str, float] = {}  # monotonic s
        self._checked = time.monotonic()
        base.subscription(node, "heartbeat", lambda message: self.heard(message.frame_id))
        node.create_timer(CHECK_SECONDS, self._check)

    def heard(self, name: str) -> None:
        """Note a sign of life."""
        if name in self._names:
            self._last[name] = time.monotonic()

    def _check(self) -> None:
        now = time.monotonic()
        delayed = now - self._checked > 2 * CHECK_SECONDS  # then their heartbeats may still be waiting for us
        self._checked = now
        silent = [name for name, last in self._last.items() if now - last > SILENCE_SECONDS]
        for name in silent if not delayed else []:
            del self._last[name]
            self._lost(name)
