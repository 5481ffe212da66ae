"""Starting and stopping nodes: refused parameters, signals, no tracebacks."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros
ARM_NODE = [sys.executable, "-m", "grape_policy.nodes.arm_node", "--ros-args"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate_hz:=1000.0", "rate_hz"),
        ("rate_hz:=fast", "rate_hz must be of type float, got 'fast'"),
        ("arm_on_start:=1", "arm_on_start must be of type bool, got 1"),
    ],
)
def test_a_refused_parameter_is_one_line(
    ros_environment: dict[str, str], override: str, message: str
) -> None:
    result = subprocess.run(
        [*ARM_NODE, "-p", override], env=ros_environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert result.stderr.startswith("cannot start: arm: parameter refused: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_cleanly(ros_environment: dict[str, str], number: signal.Signals) -> None:
    command = [*ARM_NODE, "-p", "driver:=mock", "-p", "rate_hz:=100"]  # a whole number is taken for 100.0
    process = subprocess.Popen(
        command, env=ros_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
