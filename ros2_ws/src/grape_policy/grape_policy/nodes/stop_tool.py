"""Latches the arm's emergency stop from a terminal: at once, or on a key; used by ``grape stop``.

It asks by topic and by service, whichever arrives first, and tells what the arm itself then publishes.
"""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from grape_msgs.msg import SafetyState
from grape_msgs.srv import EmergencyStop
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Bool

from grape_policy.nodes import base

REPEAT_SECONDS = 0.2
NO_ANSWER = "the arm did not confirm the stop: use the hardware stop, then see whether the graph is running"
NOT_CLEARED = "the arm did not confirm that the stop is cleared; see whether the graph is running"
KEYS = "any key stops the arm; c clears a stop (the arm stays disarmed); q leaves"


class StopTool:
    """A client of one arm; ready at once to publish, so that a key acts as fast as DDS does."""

    def __init__(self, domain_id: int | None = None) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = rclpy.create_node("stop_tool", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publisher = base.publisher(self._node, "emergency_stop")
        self._client = base.client(self._node, "emergency_stop")
        self._state: Any = None
        base.subscription(self._node, "safety_state", self._on_state)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def engage(self, timeout_seconds: float = 5.0) -> tuple[bool, str]:
        """Latch the stop; return whether the arm confirms it, and its words."""
        self._publisher.publish(Bool(data=True))  # reaches an arm that is matched already
        return self._ask(True, lambda state: state == SafetyState.EMERGENCY_STOPPED, timeout_seconds)

    def clear(self, timeout_seconds: float = 5.0) -> tuple[bool, str]:
        """Release a latched stop into the disarmed state; return whether the arm confirms, and its words."""
        return self._ask(False, lambda state: state != SafetyState.EMERGENCY_STOPPED, timeout_seconds)

    def connected(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until the arm is found; return whether it is."""
        return self._until(lambda: self._publisher.get_subscription_count() > 0, timeout_seconds)

    def spin(self, seconds: float) -> None:
        """Receive for a while."""
        self._until(lambda: False, seconds)

    def _ask(self, engage: bool, wanted: Callable[[int], bool], timeout_seconds: float) -> tuple[bool, str]:
        """Ask until the arm itself says that it is so.

        A stop is asked for again and again: an arm that crashed is seen for some time still, and what only
        that one receives is lost. Clearing is asked for once, of an arm that was heard: a second request that
        comes late would clear the next stop.
        """
        end, self._state = time.monotonic() + timeout_seconds, None
        ask_at, futures = 0.0, list[Any]()
        while (now := time.monotonic()) < end:
            if now >= ask_at and (engage or (self._state is not None and not futures)):
                futures += self._send(engage)
                ask_at = now + REPEAT_SECONDS
            self._executor.spin_once(timeout_sec=0.02)
            answered = any(future.done() for future in futures)
            if self._state is not None and wanted(self._state.state) and (engage or answered):
                return True, str(self._state.message)
        return False, NO_ANSWER if engage else NOT_CLEARED

    def _send(self, engage: bool) -> list[Any]:
        """Ask by topic and by service; return the futures of the answers."""
        if engage and self._publisher.get_subscription_count():
            self._publisher.publish(Bool(data=True))
        if not self._client.service_is_ready():
            return []
        return [self._client.call_async(EmergencyStop.Request(engage=engage))]

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            self._executor.spin_once(timeout_sec=max(0.0, min(0.05, end - time.monotonic())))
        return True

    def _on_state(self, message: SafetyState) -> None:
        self._state = message


def watch_keys(tool: StopTool, say: Callable[[str], None]) -> int:
    """Stop the arm on any key until ``q``; return 1 when a stop was not confirmed.

    Raises:
        ValueError: the input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise ValueError("--keyboard needs a terminal; without it the stop is latched at once")
    if not tool.connected():
        say("no arm is found yet")
    say(KEYS)
    failed = 0
    with _single_keys():
        while (key := _key(tool)) != "q":
            done, message = tool.clear() if key == "c" else tool.engage()
            failed = int(not done)
            say(message)
    return failed


@contextmanager
def _single_keys() -> Iterator[None]:
    """Let the terminal hand over each key at once, without Enter."""
    saved = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _key(tool: StopTool) -> str:
    while not select.select([sys.stdin], [], [], 0.0)[0]:
        tool.spin(0.02)
    return sys.stdin.read(1) or "q"
