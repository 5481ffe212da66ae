"""Checks of the machine and the installation: each one line, and when it fails the remedy.

Checks that could take this process down with them (rendering, DDS) run in a process of their own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from grape_episodes import contract

from grape_policy import domain, stack

GIGABYTE = 1e9
NEEDED_DISK_BYTES = 2 * GIGABYTE
NEEDED_MEMORY_BYTES = 4 * GIGABYTE
NEEDED_SHARED_MEMORY_BYTES = 0.2 * GIGABYTE  # 16 MB for each process of the stack, and room
PROBE_SECONDS = 60.0
PYTHON_VERSIONS = ((3, 11), (3, 12))  # that of the ROS wheels, that of ROS 2 Jazzy on Ubuntu 24.04

RENDER_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=".1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 32, 32)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer.update_scene(data)
assert renderer.render().shape == (32, 32, 3)
"""
ROS_PROBE = "import rclpy; from grape_msgs.msg import ActionDelta; rclpy.init(); rclpy.shutdown()"


@dataclass(frozen=True)
class Check:
    """The outcome of one check: what was found, and what to do when it is not good."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_python() -> Check:
    """Is this a Python the project is made for?"""
    found = platform.python_version()
    ok = sys.version_info[:2] in PYTHON_VERSIONS
    return Check("python", ok, found, "" if ok else "install Python 3.11, remove .venv and run: make setup")


def check_contract() -> Check:
    """Does the contract parse, and does every topic name a QoS profile that exists?"""
    try:
        topics, camera = contract.topics(), contract.camera()
        profiles = contract.document()["qos"]
        unknown = sorted({topic.qos for topic in topics.values()} - set(profiles))
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Check(
            "contract", False, _one_line(error), "restore grape_episodes/contract.yaml from the repository"
        )
    if unknown:
        return Check(
            "contract", False, f"unknown QoS {', '.join(unknown)}", "declare it under qos: in contract.yaml"
        )
    return Check("contract", True, f"{len(topics)} topics, camera {camera.width}x{camera.height}")


def check_rendering() -> Check:
    """Can MuJoCo render without a display?"""
    problem = _probe(RENDER_PROBE)
    remedy = "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri"
    return Check("rendering", not problem, problem or "MuJoCo renders through EGL", remedy if problem else "")


def check_ros() -> Check:
    """Do ROS 2 and the project's messages load?"""
    problem = _probe(ROS_PROBE)
    detail = problem or f"rclpy and grape_msgs load (ROS 2: {os.environ.get('ROS_DISTRO', 'wheels')})"
    return Check("ros", not problem, detail, "make setup" if problem else "")


def check_domain() -> Check:
    """Is the ROS domain free of other programs on this machine?"""
    try:
        domain_id = domain.parse_domain(os.environ.get("ROS_DOMAIN_ID", ""))
    except ValueError as error:
        detail, _, remedy = str(error).partition("; ")
        return Check("domain", False, detail, remedy)
    count = domain.participants(domain_id)
    if count:
        remedy = "stop that program, or choose another domain: export ROS_DOMAIN_ID=42"
        return Check("domain", False, f"{count} ROS participant(s) on domain {domain_id} already", remedy)
    return Check("domain", True, f"ROS domain {domain_id} is free")


def check_disk(folder: Path) -> Check:
    """Is there room for episodes and checkpoints where ``folder`` is or will be?"""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    ok = free >= NEEDED_DISK_BYTES
    remedy = "" if ok else f"free {NEEDED_DISK_BYTES / GIGABYTE:g} GB, or give another folder"
    return Check("disk", ok, f"{free / GIGABYTE:.1f} GB free at {existing}", remedy)


def check_memory() -> Check:
    """Is there enough memory, and enough shared memory for images between processes?"""
    free, shared = psutil.virtual_memory().available, shutil.disk_usage("/dev/shm").free
    detail = f"{free / GIGABYTE:.1f} GB free, {shared / GIGABYTE:.1f} GB of shared memory"
    if free < NEEDED_MEMORY_BYTES:
        return Check(
            "memory", False, detail, f"close other programs; {NEEDED_MEMORY_BYTES / GIGABYTE:g} GB are needed"
        )
    if shared < NEEDED_SHARED_MEMORY_BYTES:
        return Check("memory", False, detail, "remove stale files in /dev/shm; in Docker: --shm-size=512m")
    return Check("memory", True, detail)


def check_checkpoint(folder: Path) -> Check:
    """Is the policy's checkpoint there, complete and loadable?"""
    from grape_policy.vla.checkpoint import load_checkpoint

    remedy = "git checkout checkpoints/, or give another one: --checkpoint <folder>"
    if not folder.is_dir():
        return Check("checkpoint", False, f"no folder {folder}", remedy)
    try:
        load_checkpoint(folder)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        return Check("checkpoint", False, _one_line(error), remedy)
    return Check("checkpoint", True, str(folder))


def check_control_rate(checkpoint: Path, log_folder: Path) -> Check:
    """Does the simulated graph hold the control rate with recording on?  Runs it for some seconds."""
    command = [sys.executable, "-m", "grape_policy.nodes.control_rate", str(checkpoint), str(log_folder)]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=3 * PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("control rate", False, "the graph did not answer", f"see the logs in {log_folder}")
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    detail = lines[-1] if lines else f"the probe ended with exit code {result.returncode}"
    load = f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors"
    remedy = "" if result.returncode == 0 else f"close other programs ({load}); logs: {log_folder}"
    return Check("control rate", result.returncode == 0, detail, remedy)


def run_checks(
    checkpoint: Path = Path(stack.DEFAULT_CHECKPOINT),
    runs: Path = Path("runs"),
    control_rate: bool = True,
    on_check: Callable[[Check], None] = lambda check: None,
) -> list[Check]:
    """Run all checks, handing each to ``on_check`` as it ends; the graph is run only if all else is good."""
    checks: list[Check] = []

    def add(check: Check) -> None:
        checks.append(check)
        on_check(check)

    for function in (check_python, check_contract, check_ros, check_rendering, check_domain, check_memory):
        add(function())
    add(check_disk(runs))
    add(check_checkpoint(checkpoint))
    if not control_rate:
        return checks
    if all(check.ok for check in checks if check.name != "domain"):  # it runs on a domain of its own
        add(check_control_rate(checkpoint, runs / "logs" / "doctor"))
    else:
        add(Check("control rate", False, "not measured, because of the above", "mend that first"))
    return checks


def _probe(code: str) -> str:
    """Run ``code`` in another interpreter; return what went wrong in one line, empty when nothing did."""
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryDirectory() as logs:
        environment = {**os.environ, **stack.environment(), "ROS_LOG_DIR": logs}
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=PROBE_SECONDS, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {PROBE_SECONDS:g} s"
    if result.returncode == 0:
        return ""
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else f"exit code {result.returncode}"


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
