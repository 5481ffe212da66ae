"""Real processes over DDS: a free domain, a process starter and a probe node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grape_policy.domain import reserved_domain
from grape_policy.supervisor import client_environment
from probe import Probe, probe_node


@pytest.fixture(scope="session")
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of every process of the session's graph, also set in this process."""
    with reserved_domain() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        for name, value in client_environment(tmp_path_factory.mktemp("logs"), domain).items():
            patch.setenv(name, value)
        yield dict(os.environ)


@pytest.fixture
def holds_rates() -> Callable[[Callable[[], bool]], None]:
    """Assert that a check of rates succeeds in one of a few windows; skip on an overloaded machine."""

    def check(window: Callable[[], bool]) -> None:
        if any(window() for _ in range(4)):
            return
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        if load > 2 * cores:
            pytest.skip(f"load {load:.1f} on {cores} cores: rates cannot be judged on this machine now")
        pytest.fail(f"the rates did not hold in any window, at load {load:.1f} on {cores} cores")

    return check


class Processes:
    """Starts nodes as processes: ``start("grape_policy.nodes.arm_node", driver="mock")``."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.running: dict[str, subprocess.Popen[str]] = {}

    def __call__(self, module: str, **parameters: Any) -> subprocess.Popen[str]:
        arguments = ["--ros-args"] if parameters else []
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={value}"]
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, env=self._environment, text=True, start_new_session=True)
        self.running[module] = process
        return process

    def stop(self, module: str) -> int:
        """Interrupt a node as Ctrl+C does and return its exit code; kill it when it does not end."""
        process = self.running.pop(module)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def _processes(environment: dict[str, str]) -> Iterator[Processes]:
    processes = Processes(environment)
    yield processes
    for module in list(processes.running):
        processes.stop(module)


@pytest.fixture
def start(ros_environment: dict[str, str]) -> Iterator[Processes]:
    """Start nodes as processes; they are ended after the test."""
    yield from _processes(ros_environment)


@pytest.fixture(scope="module")
def module_start(ros_environment: dict[str, str]) -> Iterator[Processes]:
    """Start nodes as processes that serve all tests of a file."""
    yield from _processes(ros_environment)


def _probe(ros_environment: dict[str, str]) -> Iterator[Probe]:
    pytest.importorskip("rclpy")
    with probe_node(int(ros_environment["ROS_DOMAIN_ID"])) as node:
        yield node


@pytest.fixture
def probe(ros_environment: dict[str, str]) -> Iterator[Probe]:
    """A probe node in its own ROS context."""
    yield from _probe(ros_environment)


@pytest.fixture(scope="module")
def module_probe(ros_environment: dict[str, str]) -> Iterator[Probe]:
    """A probe node for all tests of a file."""
    yield from _probe(ros_environment)
