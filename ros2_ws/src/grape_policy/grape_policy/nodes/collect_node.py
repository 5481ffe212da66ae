"""Asks the episode manager for one batch of rollouts, shows its progress and ends with it.

Used by ``collect.launch.py``; a robot needs no more than the ROS packages to collect.
"""

from __future__ import annotations

import time
from typing import Any

from action_msgs.msg import GoalStatus
from grape_msgs.action import Collect
from rclpy.node import Node
from rclpy.task import Future

from grape_policy.nodes import base
from grape_policy.nodes.parameters import Parameter, declare

PARAMETERS = (
    Parameter("tasks", "carrot_on_plate", "Tasks to collect, separated by commas."),
    Parameter("split", "collect", "Split of the initial states: train, collect or eval."),
    Parameter("states", 4, "Initial states per task.", 1, 10_000),
    Parameter("rollouts", 3, "Rollouts per initial state.", 1, 1_000),
    Parameter("temperature", 0.7, "Sampling temperature of the policy; 0: greedy.", 0.0, 10.0),
    Parameter("seed", 0, "Seed of the sampling.", 0, 2**31 - 1),
    Parameter("ready_timeout", 180.0, "Wait this long for the other nodes.", 1.0, 600.0, "s"),
)
NEEDED_SERVICES = ("set_policy_task", "set_armed", "reset_scene", "start_recording")


def initial_states(tasks: str, split: str, states: int) -> list[tuple[str, str]]:
    """Return (task, initial_state_id) pairs: the first ``states`` of the split for each comma-separated task.

    Raises:
        ValueError: no task is named.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ValueError("tasks is empty; name at least one task, e.g. carrot_on_plate")
    return [(name, f"{name}/{split}/{index:04d}") for name in names for index in range(states)]


class CollectNode(Node):
    """Sends one Collect goal; ``exit_code`` is set when it has ended."""

    def __init__(self) -> None:
        super().__init__("collect")
        self.exit_code: int | None = None
        self._goal_handle: Any = None
        values = declare(self, PARAMETERS)
        states = initial_states(values.tasks, values.split, values.states)
        self._client = base.action_client(self, "collect")
        self._wait_for_stack(values.ready_timeout)
        goal = Collect.Goal(
            tasks=[task for task, _ in states], initial_state_ids=[state for _, state in states]
        )
        goal.rollouts, goal.temperature, goal.seed = values.rollouts, values.temperature, values.seed
        self._client.send_goal_async(goal, self._show_progress).add_done_callback(self._accepted)

    def _wait_for_stack(self, seconds: float) -> None:
        """Wait until the manager, and what it needs, answers.

        Raises:
            RuntimeError: somebody does not in time.
        """
        end = time.monotonic() + seconds
        for key in NEEDED_SERVICES:
            client = base.client(self, key)
            if not client.wait_for_service(max(0.0, end - time.monotonic())):
                raise RuntimeError(f"nothing serves {client.srv_name} after {seconds:g} s; is the stack up?")
            self.destroy_client(client)
        if not self._client.wait_for_server(max(0.0, end - time.monotonic())):
            raise RuntimeError(f"no episode manager after {seconds:g} s; start the stack first (grape up)")

    def close(self) -> None:
        """Cancel what is left of the batch; the manager keeps the episodes that are complete."""
        if self._goal_handle is not None and self.exit_code is None:
            self._goal_handle.cancel_goal_async()

    def _accepted(self, future: Future) -> None:
        self._goal_handle = future.result()
        if not self._goal_handle.accepted:
            self._end(1, "the episode manager refused the batch; its log says why")
            return
        self._goal_handle.get_result_async().add_done_callback(self._ended)

    def _show_progress(self, message: Any) -> None:
        progress = message.feedback
        self.get_logger().info(f"{progress.done}/{progress.total} {progress.episode_id}: {progress.outcome}")

    def _ended(self, future: Future) -> None:
        answer = future.result()
        result, succeeded = answer.result, answer.status == GoalStatus.STATUS_SUCCEEDED
        self._end(
            0 if succeeded else 1,
            f"{result.episodes} episodes, {result.successes} successes. {result.message}",
        )

    def _end(self, exit_code: int, text: str) -> None:
        self.get_logger().info(text)
        self.exit_code = exit_code


def main() -> None:
    """Run the node as a process."""
    raise SystemExit(base.spin(CollectNode))


if __name__ == "__main__":
    main()
