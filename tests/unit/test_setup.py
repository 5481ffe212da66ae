"""The set-up refuses machines it cannot serve in one line, and does nothing when nothing has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = ("scripts", "launch", "ros2_ws/src", "training/pyproject.toml", "constraints.txt")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the files that the set-up reads, and a folder of stand-in programs for its PATH."""
    for name in (*INPUTS, "requirements.txt", "requirements-ros.txt"):
        source, target = ROOT / name, tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (tmp_path / "bin").mkdir()
    return tmp_path / "clone"


def program(clone: Path, name: str, script: str) -> None:
    """Put a program before all others on the set-up's PATH."""
    path = clone.parent / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def set_up(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("ROS_DISTRO", "AMENT_PREFIX_PATH")}
    path = f"{clone.parent / 'bin'}{os.pathsep}{clean['PATH']}"
    return subprocess.run(
        [str(clone / "scripts" / "setup.sh")],
        env={**clean, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in ("[setup] error: ", *words):
        assert word in result.stderr


def test_a_broken_python(clone: Path) -> None:
    program(clone, "python3.11", "exit 1")
    refused(set_up(clone), "python3.11 does not run")


def test_another_machine(clone: Path) -> None:
    program(clone, "uname", "echo Linux aarch64")
    refused(set_up(clone), "x86_64 only", "install ROS 2 Jazzy")


def test_a_ros_that_is_too_old(clone: Path) -> None:
    refused(
        set_up(clone, ROS_DISTRO="humble", AMENT_PREFIX_PATH="/opt/ros/humble"), "humble", "Jazzy or newer"
    )


def test_a_ros_without_python(clone: Path) -> None:
    program(clone, "python3", "exit 1")
    refused(set_up(clone, ROS_DISTRO="jazzy", AMENT_PREFIX_PATH="/opt/ros/jazzy"), "cannot import rclpy")


def fake_python(clone: Path) -> str:
    """Put a python3.11 on the PATH that knows its version and cannot make a virtual environment."""
    path = str(clone.parent / "bin" / "python3.11")
    answers = f'case "$2" in *sys.executable*) echo {path};; *platform*) echo 3.11.2;; *) exit 1;; esac'
    program(clone, "python3.11", answers)
    return path


def test_missing_system_packages_are_one_line_for_who_is_not_root(clone: Path) -> None:
    program(clone, "dpkg-query", "exit 1")
    program(clone, "id", "echo 1000")
    fake_python(clone)
    result = set_up(clone)
    line = next(line for line in result.stdout.splitlines() if "sudo apt-get install -y " in line)
    for package in ("libegl1", "libgl1-mesa-dri", "libusb-1.0-0", "cmake", "g++", "python3-dev"):
        assert f" {package}" in line
    refused(result, "no virtual environment", "sudo apt-get install -y python3.11-venv")


def test_a_second_run_does_nothing_and_a_change_is_noticed(clone: Path) -> None:
    """The stamp of a complete set-up is computed with the script's own function; a real one takes minutes."""
    fake = fake_python(clone)
    inputs = (clone / "scripts" / "setup.sh").read_text().partition("inputs() {")[2].partition("\n}")[0]
    script = f"python={fake} version=3.11.2 ros=wheels\n{inputs}"
    text = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, check=True).stdout
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to("/bin/true")
    (clone / ".venv" / "grape-setup.stamp").write_text(hashlib.sha256(text).hexdigest())
    result = set_up(clone)
    assert result.returncode == 0
    assert "[setup] up to date" in result.stdout
    (clone / "ros2_ws" / "src" / "grape_msgs" / "msg" / "New.msg").write_text("bool value\n")
    assert "[setup] 1/4" in set_up(clone).stdout
