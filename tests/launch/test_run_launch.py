"""run.launch.py under ROS 2's launch: all nodes come up, one episode runs, everything stops cleanly."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_testing", reason="ROS 2's launch packages are not installed")

import launch_testing
import launch_testing.asserts
from launched_stack import launched_stack

SIM, ARM, MANAGER = "sim_node", "arm_node", "lifecycle_manager_node"
NODES = (SIM, ARM, "policy_node", "recorder_node", "episode_manager_node", MANAGER)
START_SECONDS = 180  # importing torch on a busy machine
ROOT = Path(tempfile.mkdtemp(prefix="grape_launch_"))


@pytest.mark.launch_test
def generate_test_description() -> Any:
    """Launch the stack with a tiny checkpoint on a domain of its own."""
    return launched_stack("run.launch.py", ROOT)


class TestStack(unittest.TestCase):
    """While the stack runs."""

    def test_runs_an_episode_once_all_nodes_are_ready(self, proc_output: Any) -> None:
        for node in NODES:
            proc_output.assertWaitFor("ready", process=node, timeout=START_SECONDS, stream="stdout")
        import rclpy
        from grape_msgs.action import RunEpisode
        from grape_policy.nodes import base

        rclpy.init()
        node = rclpy.create_node("launch_test")
        client = base.action_client(node, "run_episode")
        self.assertTrue(client.wait_for_server(30))
        goal = RunEpisode.Goal(
            task="stack_cube", initial_state_id="stack_cube/collect/0000", max_steps=5, temperature=1.0
        )
        sent = client.send_goal_async(goal)
        rclpy.spin_until_future_complete(node, sent, timeout_sec=30)
        result = sent.result().get_result_async()
        rclpy.spin_until_future_complete(node, result, timeout_sec=60)
        self.assertTrue(result.done())
        self.assertIn(result.result().result.outcome, ("success", "failure", "stopped"))
        self.assertTrue((Path(result.result().result.path) / "episode.json").is_file())
        node.destroy_node()
        rclpy.try_shutdown()


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    """After Ctrl+C."""

    def test_every_node_ends_without_error(self, proc_info: Any) -> None:
        self.assertEqual(len(proc_info.processes()), len(NODES))
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_no_half_written_episode_is_left(self) -> None:
        self.assertEqual(list((ROOT / "episodes").rglob("*.part")), [])
