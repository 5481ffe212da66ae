"""Measures whether the simulated graph holds the control rate with recording on; run by the doctor.

``python -m grape_policy.nodes.control_rate <checkpoint> <log folder>`` starts the graph on a free domain and
runs one short episode; it prints one line, with exit code 0 when the rate is held.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from grape_episodes import contract
from grape_msgs.action import RunEpisode

from grape_policy.domain import reserved_domain
from grape_policy.nodes import base
from grape_policy.nodes.messages import to_nanoseconds
from grape_policy.stack import StackError
from grape_policy.supervisor import running_stack

STEPS = 30  # 6 s at 5 Hz
EPISODE_SECONDS = 40.0
TOLERANCE = 0.04  # of the rate
LATE = 1.5  # periods; an action that comes later than this is late
LATE_SHARE = 0.05
STATE = "carrot_on_plate/collect/0000"


@dataclass(frozen=True)
class ControlRate:
    """What was measured: actions per second, the longest interval between two (s), the share of late ones."""

    actions: int
    rate_hz: float
    longest_seconds: float
    late_share: float

    @property
    def held(self) -> bool:
        """Whether the contract's control rate was held."""
        needed = (1.0 - TOLERANCE) / float(contract.document()["control"]["period_seconds"])
        return self.rate_hz >= needed and self.late_share <= LATE_SHARE

    def __str__(self) -> str:
        text = f"{self.rate_hz:.2f} Hz over {self.actions} actions with recording on"
        return f"{text}, longest interval {self.longest_seconds * 1e3:.0f} ms, {self.late_share:.0%} late"


def rate_of(stamps_ns: list[int]) -> ControlRate:
    """Return the rate of actions published at these times (ns).

    Raises:
        ValueError: fewer than three actions.
    """
    if len(stamps_ns) < 3:
        raise ValueError(f"only {len(stamps_ns)} actions were published; no rate can be told")
    intervals = np.diff(np.array(stamps_ns)) / 1e9
    late = float(np.mean(intervals > LATE * float(contract.document()["control"]["period_seconds"])))
    return ControlRate(len(stamps_ns), 1.0 / float(intervals.mean()), float(intervals.max()), late)


def run_episode(timeout_seconds: float = EPISODE_SECONDS) -> list[int]:
    """Run one episode on the running graph; return the actions' publication times (ns).

    Raises:
        RuntimeError: the episode manager does not answer, or the episode did not end in time.
    """
    rclpy.init()
    node = rclpy.create_node("control_rate")
    try:
        stamps: list[int] = []
        base.subscription(node, "action", lambda message: stamps.append(to_nanoseconds(message.header.stamp)))
        client = base.action_client(node, "run_episode")
        if not client.wait_for_server(timeout_seconds):
            raise RuntimeError("the episode manager does not answer")
        goal = RunEpisode.Goal(task=STATE.partition("/")[0], initial_state_id=STATE, max_steps=STEPS)
        handle = _wait(node, client.send_goal_async(goal), timeout_seconds)
        result = _wait(node, handle.get_result_async(), timeout_seconds).result
        if result.outcome == "aborted":
            raise RuntimeError(f"the episode was aborted: {result.reason}")
        return stamps
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _wait(node: Any, future: Any, timeout_seconds: float) -> Any:
    end = time.monotonic() + timeout_seconds
    while not future.done():
        if time.monotonic() > end:
            raise RuntimeError(f"the episode manager did not answer within {timeout_seconds:g} s")
        rclpy.spin_once(node, timeout_sec=0.1)
    return future.result()


def main(arguments: list[str]) -> int:
    """Measure and print one line; return the exit code."""
    checkpoint, log_folder = arguments
    try:
        with tempfile.TemporaryDirectory() as episodes, reserved_domain() as domain_id:
            stack = {"checkpoint": checkpoint, "episodes_folder": episodes}
            with running_stack(stack, domain_id, Path(log_folder)):
                rate = rate_of(run_episode())
    except (StackError, RuntimeError, ValueError, OSError) as error:
        print(error)
        return 1
    print(rate)
    return 0 if rate.held else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
