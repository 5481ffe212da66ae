"""collect.launch.py under ROS 2's launch: collects, and ends by itself with the collector."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_testing", reason="ROS 2's launch packages are not installed")

import launch
import launch_testing
import launch_testing.actions
from grape_policy.domain import reserved_domain
from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from vla_factory import tiny_checkpoint

LAUNCH_FILE = Path(__file__).parents[2] / "launch" / "collect.launch.py"
COLLECT_SECONDS = 300
ROOT = Path(tempfile.mkdtemp(prefix="grape_launch_"))


@pytest.mark.launch_test
def generate_test_description() -> Any:
    """Collect one rollout with a tiny checkpoint on a domain of its own."""
    tiny_checkpoint(ROOT / "checkpoint")
    with reserved_domain() as domain_id:
        os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    arguments = {"checkpoint": str(ROOT / "checkpoint"), "episodes_folder": str(ROOT / "episodes")}
    arguments |= {"tasks": "spoon_on_towel", "states": "1", "rollouts": "1"}
    return launch.LaunchDescription(
        [
            SetEnvironmentVariable("ROS_LOG_DIR", str(ROOT / "logs")),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(LAUNCH_FILE)), launch_arguments=arguments.items()
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestCollection(unittest.TestCase):
    """The launch ends with the collector, and the episode is there."""

    def test_collects_and_ends(self, proc_info: Any) -> None:
        proc_info.assertWaitForShutdown("collect_node", timeout=COLLECT_SECONDS)
        self.assertEqual(proc_info["collect_node"].returncode, 0)
        self.assertEqual(len(list((ROOT / "episodes").glob("*/episode.json"))), 1)
