"""collect.launch.py under ROS 2's launch: works off a task list, and ends by itself with the collector."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("launch_testing", reason="ROS 2's launch packages are not installed")

from launched_stack import launched_stack

COLLECT_SECONDS = 300
ROOT = Path(tempfile.mkdtemp(prefix="grape_launch_"))
TASK_LIST = {
    "name": "launched",
    "rollouts": 2,
    "temperature": 0.5,
    "max_steps": 8,
    "min_steps": 1,
    "retries": 12,  # a busy machine misses deadlines, and then the arm rightly stops
    "failures": 100,
    "limits": {"free_gigabytes": 0},
    "tasks": [{"task": "spoon_on_towel", "states": 1}],
}


@pytest.mark.launch_test
def generate_test_description() -> Any:
    """Collect the list with a tiny checkpoint on a domain of its own."""
    path = ROOT / "tasks.yaml"
    path.write_text(yaml.safe_dump(TASK_LIST))
    return launched_stack("collect.launch.py", ROOT, task_list=str(path))


class TestCollection(unittest.TestCase):
    """The launch ends with the collector, and the list's episodes are there."""

    def test_collects_the_list_and_ends(self, proc_info: Any) -> None:
        proc_info.assertWaitForShutdown("collect_node", timeout=COLLECT_SECONDS)
        self.assertEqual(proc_info["collect_node"].returncode, 0)
        manifests = [json.loads(path.read_text()) for path in (ROOT / "episodes").glob("*/episode.json")]
        self.assertEqual([(m["task"], m["temperature"]) for m in manifests], [("spoon_on_towel", 0.5)] * 2)
        self.assertEqual(len({m["seed"] for m in manifests}), 2)
        status = json.loads((ROOT / "episodes/collections/launched/status.json").read_text())
        self.assertEqual(status["done"], 2)
