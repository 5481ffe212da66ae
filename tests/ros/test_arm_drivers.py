"""The drivers of real arms over DDS: the arm node, and a process that stands in for robot and controller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grape_policy.arm.description import load_description
from trossen_simulator import ADDRESS, simulator

pytestmark = pytest.mark.ros
SafetyState = pytest.importorskip("grape_msgs.msg", exc_type=ImportError).SafetyState

ARM = "grape_policy.nodes.arm_node"
FAKE_ROBOT = Path(__file__).with_name("fake_robot.py")
COMMANDS = {"servo": "servo_twist", "joint_trajectory": "joint_trajectory", "cartesian_pose": "target_pose"}
CELLS = [("servo", "wx250s"), ("joint_trajectory", "panda"), ("cartesian_pose", "fr3")]
TIMEOUT = 1.0  # s without joint states; the default of 0.25 s is too short for a busy test machine
DRIVER_FAULTS = {SafetyState.REASON_DRIVER_FAULT, SafetyState.REASON_JOINT_STATES_STALE}


LIMITS = {"watch": "none", "overdue_timeout": 5.0, "joint_states_timeout": TIMEOUT}


class Cell:
    """Arm node, robot and probe; actions are sent by the probe."""

    def __init__(self, probe: Any, driver: str, robot: str) -> None:
        self.probe, self.driver, self.robot = probe, driver, load_description(robot)
        self.fake: subprocess.Popen[bytes] | None = None
        self.commands: list[Any] = []
        probe.listen("joint_states", "end_effector_pose", "safety_state")
        if driver in COMMANDS:
            self._listen_to_commands()

    def _listen_to_commands(self) -> None:
        from grape_episodes import contract
        from grape_policy.nodes import base
        from grape_policy.nodes.messages import interface_type

        key = COMMANDS[self.driver]
        topic = contract.topics()[key]
        name = self.robot.topics.get(key, topic.name)
        kind, qos = interface_type(topic.type), base.qos_profile(key)
        self.reader = self.probe.node.create_subscription(kind, name, self.commands.append, qos)

    @property
    def status(self) -> Any:
        return self.probe.received["safety_state"][-1]

    @property
    def joints(self) -> np.ndarray:
        return np.array(self.probe.received["joint_states"][-1].position)

    @property
    def position(self) -> np.ndarray:
        p = self.probe.received["end_effector_pose"][-1].pose.position
        return np.array([p.x, p.y, p.z])

    def arm(self) -> None:
        """Arm; joint states may need a moment to come."""
        end = time.monotonic() + 30.0
        while not (answer := self.probe.call("set_armed", seconds=30, armed=True)).success:
            assert time.monotonic() < end, answer.message
            self.probe.spin(0.2)
        self.probe.until(lambda: self.status.state == SafetyState.ARMED, 5, "an armed arm")

    def act(self, delta: list[float], gripper: float = 1.0) -> None:
        from grape_msgs.msg import ActionDelta

        message = ActionDelta(episode_id="test", action=[*delta, 0.0, 0.0, 0.0, gripper])
        message.observation_stamp = self.probe.node.get_clock().now().to_msg()
        self.probe.publish("action", message)

    def seconds_to_stop(self) -> float:
        start = time.monotonic()
        self.probe.until(lambda: self.status.state == SafetyState.STOPPED, 10, "a stop")
        return time.monotonic() - start

    def stands(self) -> bool:
        """Whether no joint moves for half a second, from half a second from now on."""
        self.probe.spin(0.5)
        before = self.joints
        self.probe.spin(0.5)
        return bool(np.abs(self.joints - before)[:-1].max() < 1e-6)


@pytest.fixture
def start_cell(start: Any, probe: Any, ros_environment: dict[str, str]) -> Iterator[Callable[..., Cell]]:
    """Start the arm node with a driver, and the robot it needs; return the running cell."""
    cells: list[Cell] = []

    def make(driver: str, robot: str, fake: bool = True, **parameters: Any) -> Cell:
        cell = Cell(probe, driver, robot)
        cells.append(cell)
        if fake:
            command = [sys.executable, str(FAKE_ROBOT), driver, robot]
            cell.fake = subprocess.Popen(command, env=ros_environment)
        start(ARM, driver=driver, robot=robot, **LIMITS, **parameters)
        probe.wait_for("safety_state", seconds=60)
        return cell

    yield make
    for cell in cells:
        if cell.fake is not None:
            cell.fake.kill()
            cell.fake.wait()


@pytest.mark.parametrize(("driver", "robot"), CELLS)
def test_a_controller_moves_the_arm_stops_it_and_going_deaf_is_a_fault(
    start_cell: Callable[..., Cell], driver: str, robot: str
) -> None:
    cell = start_cell(driver, robot)
    probe = cell.probe
    assert cell.status.state == SafetyState.DISARMED
    probe.wait_for("end_effector_pose", seconds=30)
    cell.act([0.02, 0.0, 0.0])
    probe.spin(0.5)
    assert not cell.commands  # a real arm starts disarmed: not one command

    cell.arm()
    start = cell.position
    for _ in range(2):
        cell.act([0.0, 0.03, 0.0], gripper=0.0)
        probe.spin(0.3)
    probe.until(lambda: bool(np.allclose(cell.position - start, [0.0, 0.06, 0.0], atol=2e-3)), 5, "the goal")
    closed = cell.robot.gripper.closed
    probe.until(lambda: abs(cell.joints[-1] - closed) < 1e-3, 5, "a closed gripper")

    cell.act([0.0, -0.05, 0.0], gripper=0.0)
    assert probe.call("set_armed", armed=False).success
    assert cell.stands()
    if driver == "servo":
        assert all(value == 0.0 for value in twist_of(cell.commands[-1]))
    sent = len(cell.commands)
    probe.spin(0.3)
    assert len(cell.commands) == sent  # then silence

    cell.arm()
    assert cell.fake is not None
    cell.fake.send_signal(signal.SIGUSR1)
    for _ in range(3):
        cell.act([0.0, -0.05, 0.0])
        probe.spin(0.2)
    cell.seconds_to_stop()
    assert cell.status.reason == SafetyState.REASON_FOLLOWING_ERROR, cell.status.message
    assert "not followed" in cell.status.message


def twist_of(message: Any) -> list[float]:
    return [getattr(part, axis) for part in (message.twist.linear, message.twist.angular) for axis in "xyz"]


@pytest.mark.parametrize(("driver", "robot"), CELLS)
def test_a_dead_robot_stops_the_arm_and_a_dead_arm_node_leaves_the_robot_standing(
    start_cell: Callable[..., Cell], start: Any, driver: str, robot: str
) -> None:
    cell = start_cell(driver, robot)
    cell.probe.wait_for("end_effector_pose", seconds=30)
    cell.arm()
    cell.act([0.0, 0.05, 0.0])
    cell.probe.spin(0.05)
    start.running[ARM].send_signal(signal.SIGKILL)
    assert cell.stands()

    start(ARM, driver=driver, robot=robot, **LIMITS)
    cell.probe.received["safety_state"].clear()
    cell.probe.wait_for("safety_state", lambda m: m.state == SafetyState.DISARMED, seconds=60)
    cell.arm()
    cell.act([0.0, 0.02, 0.0])
    assert cell.fake is not None
    cell.fake.kill()
    assert cell.seconds_to_stop() < TIMEOUT + 0.1 + load_slack()
    assert cell.status.reason in DRIVER_FAULTS
    assert not cell.probe.call("set_armed", armed=True).success


def load_slack() -> float:
    """Return seconds that a busy machine may add to the delivery of a message."""
    return 0.2 * max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1.0)


def test_commands_that_nobody_reads_are_a_fault(start_cell: Callable[..., Cell]) -> None:
    cell = start_cell("joint_trajectory", "wx250s", fake=False)
    cell.probe.node.destroy_subscription(cell.reader)
    robot = cell.robot
    from grape_policy.nodes.arm_messages import to_joint_state

    def states() -> None:
        stamp = cell.probe.node.get_clock().now().nanoseconds
        positions = [*robot.home, robot.gripper.open]
        cell.probe.publish("joint_states", to_joint_state(robot.joint_state_names, positions, stamp, "base"))

    states()
    cell.probe.node.create_timer(0.01, states)
    end = time.monotonic() + 20
    while not cell.probe.call("set_armed", armed=True).success:
        assert time.monotonic() < end
    cell.seconds_to_stop()
    assert cell.status.reason == SafetyState.REASON_DRIVER_FAULT
    assert "/joint_trajectory_controller/joint_trajectory" in cell.status.message


def test_the_widowx_ai_moves_and_losing_it_is_a_fault(start_cell: Callable[..., Cell], start: Any) -> None:
    pytest.importorskip("trossen_arm_sim", reason="optional: .venv/bin/pip install trossen-arm-sim")
    with simulator() as process:
        cell = start_cell("trossen", "wxai", fake=False, address=ADDRESS)
        cell.probe.wait_for("end_effector_pose", seconds=30)
        assert cell.status.state == SafetyState.DISARMED
        cell.arm()
        begin = cell.position
        for _ in range(2):
            cell.act([0.0, 0.0, 0.03])
            cell.probe.spin(0.3)
        cell.probe.until(lambda: cell.position[2] - begin[2] > 0.05, 5, "a raised arm")
        process.kill()
        assert cell.seconds_to_stop() < 0.25 + 0.1 + load_slack()
        assert cell.status.reason == SafetyState.REASON_DRIVER_FAULT, cell.status.message
        assert start.stop(ARM) == 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"driver": "sim", "robot": "panda"}, "driver sim simulates the wx250s"),
        ({"driver": "trossen"}, "use robot wxai"),
        ({"driver": "servo", "arm_on_start": True}, "arm_on_start is not for real arms"),
        ({"driver": "trossen", "robot": "wxai", "address": "127.0.0.9"}, "Failed to connect"),
    ],
)
def test_what_cannot_run_is_one_clear_line(
    ros_environment: dict[str, str], parameters: dict[str, Any], words: str
) -> None:
    pairs = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", ARM, "--ros-args", *pairs]
    result = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "cannot start: " in result.stderr
    assert words in result.stderr
