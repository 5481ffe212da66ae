"""The checks after a collection with faults can fail: each kind of damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grape_episodes.catalogue import Catalogue
from grape_policy.arm.description import load_description
from grape_policy.collection.session import Session
from grape_policy.collection.task_list import TaskList
from grape_training.bench_collection_checks import check_episodes
from grape_training.bench_collection_monitor import Log
from grape_training.bench_collection_motion import check_motion
from played_robot import FROZEN, OK, PlayedRobot

ROBOT = load_description("wx250s")
WANTED = TaskList.model_validate(
    {
        "name": "faults",
        "rollouts": 2,
        "tolerance": 0,
        "tasks": [{"task": "carrot_on_plate", "states": 1}],
        "limits": {"free_gigabytes": 0},
    }
)


@pytest.fixture
def robot(tmp_path: Path) -> PlayedRobot:
    """A finished collection: two episodes kept, one set aside."""
    played = PlayedRobot(tmp_path / "episodes")
    played.script = [FROZEN]
    Session(played, WANTED, played.root, say=print).run()
    return played


def check(robot: PlayedRobot, started: list[str] | None = None) -> dict[str, Any]:
    return check_episodes(robot.root, WANTED, started or [])


def kept(robot: PlayedRobot) -> list[Path]:
    return [entry.folder for entry in Catalogue(robot.root / "catalogue.sqlite").episodes()]


def test_a_good_collection_passes(robot: PlayedRobot) -> None:
    names = [path.name for path in (*kept(robot), *(robot.root / "quarantine").iterdir())]
    found = check(robot, names)
    assert (found["lost"], found["problems"]) == ([], [])
    counts = {"planned": 2, "kept": 2, "given_up": 0, "set_aside": 1, "recoveries": 1}
    assert found["counts"] == counts | {"stops": {"IMAGE_FROZEN": 1}}


def test_what_began_and_is_nowhere_is_lost(robot: PlayedRobot) -> None:
    assert check(robot, ["20260101T000000000000-gone-0000"])["lost"] == ["20260101T000000000000-gone-0000"]


def test_a_deleted_episode_is_found(robot: PlayedRobot) -> None:
    shutil.rmtree(kept(robot)[0])
    assert any("in the catalogue only" in problem for problem in check(robot)["problems"])


def test_a_damaged_an_unfinished_and_a_second_episode_are_found(robot: PlayedRobot) -> None:
    folder = kept(robot)[0]
    robot.record(WANTED.plan()[0], "", 0.7, **OK)
    (robot.root / "open.part").mkdir()
    (file,) = folder.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-9])
    problems = " ".join(check(robot)["problems"])
    assert "unfinished: open.part" in problems
    assert "run twice" in problems
    assert "sha256" in problems


def test_an_unexplained_set_aside_episode_is_found(robot: PlayedRobot) -> None:
    (note,) = (robot.root / "quarantine").glob("*/quarantine.json")
    note.write_text(json.dumps({"reason": "BAD_LUCK", "message": ""}))
    assert any("BAD_LUCK" in problem for problem in check(robot)["problems"])


def log_of(joints: np.ndarray, armed: bool = True, seconds: float = 0.01) -> Log:
    times = 100.0 + seconds * np.arange(len(joints))
    commands = [(float(t), float(t), list(row)) for t, row in zip(times, joints, strict=True)]
    return Log(commands, [(99.0, armed)])


def smooth(speed: float, count: int = 100) -> np.ndarray:
    """Joints that speed up gently to ``speed`` rad/s in the waist and go on."""
    ramp = np.minimum(np.linspace(0, 4, count), 1.0) * speed * 0.01
    return ROBOT.home + np.outer(np.cumsum(ramp), [1.0, 0, 0, 0, 0, 0])


def violations(tmp_path: Path, log: Log) -> list[str]:
    return list(check_motion(tmp_path, log)["violations"])


def test_motion_within_limits_passes(tmp_path: Path) -> None:
    assert violations(tmp_path, log_of(smooth(2.5))) == []
    assert violations(tmp_path, Log()) == []


def test_fast_jerky_unarmed_and_far_motion_is_found(tmp_path: Path) -> None:
    jump = smooth(0.0)
    jump[50:, 0] += 0.2
    assert "velocity limit" in violations(tmp_path, log_of(jump))[0]
    shaking = smooth(0.0)
    shaking[:, 1] += 0.1 * np.sign(np.sin(np.arange(100) * 0.01 * 2 * np.pi * 5))
    assert any("acceleration" in text for text in violations(tmp_path, log_of(shaking)))
    assert "not armed" in violations(tmp_path, log_of(smooth(1.0), armed=False))[0]
    far = smooth(0.0)
    far[:, 2] = ROBOT.upper[2] + 0.01
    assert "beyond a joint limit" in violations(tmp_path, log_of(far))[0]
