"""The collection command on the real simulated graph: a robot's ways to put a scene back, and a person's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grape_episodes.catalogue import Catalogue
from grape_policy.supervisor import running_stack
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
pytestmark = [pytest.mark.ros, pytest.mark.slow]
GRAPE = [sys.executable, "-m", "grape_training.cli"]
TASK: dict[str, Any] = {
    "task": "carrot_on_plate",
    "forward": "put the carrot on the plate",
    "backward": "take the carrot off the plate",
    "states": 1,
}


@pytest.fixture(scope="module")
def episodes(ros_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The episodes' folder of a running graph."""
    root = tmp_path_factory.mktemp("unattended")
    tiny_checkpoint(root / "checkpoint")
    arguments = {"checkpoint": str(root / "checkpoint"), "episodes_folder": str(root / "episodes")}
    with running_stack(arguments, int(ros_environment["ROS_DOMAIN_ID"]), root / "logs"):
        yield root / "episodes"


def start(
    episodes: Path, tmp_path: Path, environment: dict[str, str], **changes: Any
) -> subprocess.Popen[str]:
    fields = {"max_steps": 6, "min_steps": 1, "retries": 12, "failures": 100, "tolerance": 0.03}
    path = tmp_path / "tasks.yaml"
    path.write_text(yaml.safe_dump({**fields, "limits": {"free_gigabytes": 0}, **changes}))
    command = [*GRAPE, "collect", "--task-list", str(path), "--output", str(episodes), "--json"]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=240)
    print(output)
    found: dict[str, Any] = json.loads(output[output.index("\n{") :])
    return found


def test_scatters_a_scene_acts_undoes_and_acts_again(
    episodes: Path, tmp_path: Path, ros_environment: dict[str, str]
) -> None:
    task = TASK | {"reset": ["scatter", "inverse"]}
    found = result(start(episodes, tmp_path, ros_environment, name="robot", rollouts=2, tasks=[task]))
    assert (found["planned"], found["done"], found["reason"]) == (2, 2, "")
    entries = Catalogue(episodes / "catalogue.sqlite").episodes()
    forward = [entry for entry in entries if entry.task == "carrot_on_plate"]
    assert {entry.initial_state_id for entry in forward} == {"carrot_on_plate/robot/0000"}
    assert len({entry.seed for entry in forward}) == len(forward) == 2
    backward = [entry for entry in entries if entry.task == "carrot_on_plate_inverse"]
    assert backward
    assert json.loads((backward[0].folder / "episode.json").read_text())["instruction"] == TASK["backward"]
    assert (episodes / "collections" / "robot" / "status.html").exists()


def test_asks_a_person_and_waits_for_the_answer(
    episodes: Path, tmp_path: Path, ros_environment: dict[str, str]
) -> None:
    task = TASK | {"reset": ["ask"]}
    process = start(episodes, tmp_path, ros_environment, name="person", rollouts=1, tasks=[task])
    phase, until = episodes / "collections" / "person" / "status.json", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if phase.exists() and json.loads(phase.read_text())["phase"].startswith("resetting: ask"):
            answer = subprocess.run([*GRAPE, "confirm"], env=ros_environment, capture_output=True, text=True)
            print(answer.stdout, answer.stderr)
        time.sleep(0.5)
    found = result(process)
    assert found["done"] == 1
