"""The scenarios of the stack with a mock arm under ROS 2's launch, and its clean end."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_testing", reason="ROS 2's launch packages are not installed")

import launch_testing
import launch_testing.asserts
import scenarios
from launch.actions import ExecuteProcess
from launched_stack import launched_stack
from probe import probe_node
from vla_factory import tiny_checkpoint

ROOT = Path(tempfile.mkdtemp(prefix="grape_launch_"))
SCENE = Path(__file__).parents[1] / "mock_scene.py"
KILLED = -9  # what the scenarios do to some nodes


@pytest.mark.launch_test
def generate_test_description() -> Any:
    """Launch the stack with the mock arm, and the scene around it."""
    tiny_checkpoint(ROOT / "other", seed=1, reach=scenarios.REACH)
    description = launched_stack("run.launch.py", ROOT, scenarios.REACH, driver="mock")
    description.entities.insert(-1, ExecuteProcess(cmd=[sys.executable, str(SCENE)], name="scene"))
    return description


class TestScenarios(unittest.TestCase):
    """While the stack runs; the names give the order."""

    def run_scenario(self, name: str) -> None:
        domain_id = int(os.environ["ROS_DOMAIN_ID"])
        with probe_node(domain_id) as probe:
            probe.listen("action", "safety_state")
            graph = scenarios.Graph(probe, domain_id, ROOT / "episodes", ROOT / "other")
            getattr(scenarios, name)(graph)


for number, scenario in enumerate(scenarios.SCENARIOS):
    setattr(
        TestScenarios,
        f"test_{number}_{scenario.__name__}",
        lambda self, name=scenario.__name__: self.run_scenario(name),
    )


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    """After Ctrl+C."""

    def test_every_node_ends_without_error(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0, KILLED])

    def test_no_half_written_episode_is_left(self) -> None:
        self.assertEqual(list((ROOT / "episodes").rglob("*.part")), [])
