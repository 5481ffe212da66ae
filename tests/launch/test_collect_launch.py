"""collect.launch.py under ROS 2's launch: collects, and ends by itself with the collector."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_testing", reason="ROS 2's launch packages are not installed")

from launched_stack import launched_stack

COLLECT_SECONDS = 300
ROOT = Path(tempfile.mkdtemp(prefix="grape_launch_"))


@pytest.mark.launch_test
def generate_test_description() -> Any:
    """Collect one rollout with a tiny checkpoint on a domain of its own."""
    return launched_stack("collect.launch.py", ROOT, tasks="spoon_on_towel", states="1", rollouts="1")


class TestCollection(unittest.TestCase):
    """The launch ends with the collector, and the episode is there."""

    def test_collects_and_ends(self, proc_info: Any) -> None:
        proc_info.assertWaitForShutdown("collect_node", timeout=COLLECT_SECONDS)
        self.assertEqual(proc_info["collect_node"].returncode, 0)
        self.assertEqual(len(list((ROOT / "episodes").glob("*/episode.json"))), 1)
