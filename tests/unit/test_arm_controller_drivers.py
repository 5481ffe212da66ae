"""What the drivers for Servo, joint trajectory and Cartesian pose controllers send, message by message."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import load_description
from grape_policy.arm.drivers import JointMeasurement
from grape_policy.arm.kinematics import ArmKinematics

rclpy = pytest.importorskip("rclpy")
controllers = pytest.importorskip("grape_policy.nodes.drivers.controllers", exc_type=ImportError)

ROBOT = load_description("panda")
TICK = 0.01
TURN = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # rad/s


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("arm", context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def recording(kind: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a driver at home whose messages are kept in ``sent`` instead of published."""
    driver, sent, gripper = kind(node, ROBOT), [], []
    monkeypatch.setattr(driver._command, "publish", sent.append)
    monkeypatch.setattr(driver._command, "require_reader", lambda: None)
    monkeypatch.setattr(driver._gripper, "publish", gripper.append)
    driver._states.newest = JointMeasurement(ROBOT.home, 0.04, 0.0)
    return SimpleNamespace(driver=driver, sent=sent, gripper=gripper)


def seconds(point: Any) -> float:
    return float(point.time_from_start.sec + point.time_from_start.nanosec * 1e-9)


def test_a_trajectory_is_the_way_of_the_last_ticks(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = recording(controllers.JointTrajectoryDriver, node, monkeypatch)
    targets = [ROBOT.home + TURN * TICK * tick for tick in range(20)]
    for tick, joints in enumerate(targets):
        cell.driver.write(JointTarget(joints, 0.01), TICK * tick)
    (first,) = cell.sent[0].points
    assert seconds(first) == pytest.approx(controllers.TRAJECTORY_SECONDS)  # gently, from wherever it stands
    message = cell.sent[-1]
    times = np.array([seconds(point) for point in message.points])
    assert tuple(message.joint_names) == ROBOT.joints
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
    np.testing.assert_allclose(times, TICK * np.arange(len(times)), atol=1e-8)
    assert TICK * 4 <= times[-1] <= controllers.TRAJECTORY_SECONDS + 1e-9
    np.testing.assert_allclose([p.positions for p in message.points], targets[-len(times) :])
    assert not any(len(point.velocities) for point in message.points)
    assert cell.gripper[-1].data[0] == 0.01
    cell.driver.write(JointTarget(targets[-1], 0.01), 5.0)
    assert len(cell.sent[-1].points) == 1  # after a pause it begins anew


def twist(message: Any) -> np.ndarray:
    parts = (message.twist.linear, message.twist.angular)
    return np.array([getattr(part, axis) for part in parts for axis in "xyz"])


def test_a_twist_is_the_speed_of_the_target(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = recording(controllers.ServoDriver, node, monkeypatch)
    kinematics = ArmKinematics(ROBOT)
    for tick in range(5):
        joints = ROBOT.home + TURN * TICK * tick
        cell.driver._states.newest = JointMeasurement(joints, 0.04, 0.0)  # it follows without delay
        cell.driver.write(JointTarget(joints, 0.01), TICK * tick)
    position = kinematics.forward(joints).position
    expected = [*np.cross([0.0, 0.0, 0.5], position), 0.0, 0.0, 0.5]  # the first joint turns about z
    np.testing.assert_allclose(twist(cell.sent[-1]), expected, atol=1e-3)
    assert cell.sent[-1].header.frame_id == ROBOT.base_frame
    np.testing.assert_array_equal(twist(cell.sent[0]), np.zeros(6))


def test_a_twist_keeps_to_the_speed_limits(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = recording(controllers.ServoDriver, node, monkeypatch)
    cell.driver.write(JointTarget(ROBOT.home, 0.01), 0.0)
    cell.driver.write(JointTarget(ROBOT.home + 1.0, 0.01), TICK)
    speed = twist(cell.sent[-1])
    assert np.linalg.norm(speed[:3]) <= ROBOT.speed.linear + 1e-9
    assert np.linalg.norm(speed[3:]) <= ROBOT.speed.angular + 1e-9
    assert np.linalg.norm(speed) > 0.1


def test_a_halt_is_zero_twists_and_then_silence(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = recording(controllers.ServoDriver, node, monkeypatch)
    cell.driver.hold(0.0)
    assert not cell.sent  # nothing was sent yet, so there is nothing to halt
    cell.driver.write(JointTarget(ROBOT.home, 0.01), 1.0)
    for tick in range(1, 200):
        cell.driver.hold(1.0 + TICK * tick)
    zeros = cell.sent[1:]
    assert 0.4 < len(zeros) * TICK < 0.6
    assert all(not twist(message).any() for message in zeros)


def test_a_pose_is_that_of_the_target(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = recording(controllers.CartesianPoseDriver, node, monkeypatch)
    cell.driver.write(JointTarget(ROBOT.home + TURN, 0.01), 0.0)
    (message,) = cell.sent
    p, expected = message.pose.position, ArmKinematics(ROBOT).forward(ROBOT.home + TURN)
    np.testing.assert_allclose([p.x, p.y, p.z], expected.position)
    assert message.header.frame_id == ROBOT.base_frame


def test_joint_states_of_arm_and_gripper_may_come_apart(node: Any) -> None:
    from grape_policy.nodes.arm_messages import to_joint_state
    from grape_policy.nodes.drivers.joint_states import JointStates

    states = JointStates(node, ROBOT)
    states._receive(to_joint_state(ROBOT.joints, ROBOT.home, 0, "base"))
    assert states.newest is None  # where the gripper is is not known yet
    states._receive(to_joint_state([ROBOT.gripper.joint], [0.03], 0, "base"))
    states._receive(to_joint_state(ROBOT.joints[:-1], ROBOT.home[:-1], 0, "base"))
    assert states.newest is None
    states._receive(to_joint_state(["wheel", *ROBOT.joints], [1.0, *ROBOT.home], 0, "base"))
    assert states.newest is not None
    assert states.newest.gripper_m == 0.03
    np.testing.assert_array_equal(states.newest.joints, ROBOT.home)
    before = states.newest
    states._receive(to_joint_state(ROBOT.joints, [np.nan] * 7, 0, "base"))
    assert states.newest is before
