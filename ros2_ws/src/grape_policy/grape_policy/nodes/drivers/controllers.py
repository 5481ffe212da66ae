"""Drivers of robots that ros2_control or MoveIt move: our checked motion in their controllers' messages.

Joint states come from the robot, and the arm node publishes the end-effector pose computed from them. A
command that nobody listens to is a fault of the driver.
"""

from __future__ import annotations

import array
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectoryPoint

from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import FloatArray, RobotDescription
from grape_policy.arm.drivers import JointMeasurement
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotation_between
from grape_policy.nodes.arm_messages import to_pose
from grape_policy.nodes.drivers.joint_states import CommandTopic, EndEffectorPose, JointStates
from grape_policy.nodes.messages import to_stamp

TRAJECTORY_SECONDS = (
    0.05  # what the arm lags behind: five control ticks, so that a late message makes no pause
)
TWIST_GAIN = 3.0  # 1/s, of what the end effector lags behind its target
ZERO_TWIST_SECONDS = 0.5  # of zero twists after a halt, then silence: Servo's own timeout takes over
PAUSE_SECONDS = 0.1  # after a longer pause of targets there is no speed to go on with


class ControllerDriver(ABC):
    """What the three have in common: joint states, pose, gripper, and a reader that must be there."""

    command_key: str

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._description = node, description
        self._states, self._pose = JointStates(node, description), EndEffectorPose(node, description)
        self._command = CommandTopic(node, description, self.command_key)
        self._gripper = CommandTopic(node, description, "gripper_command")

    def write(self, target: JointTarget, now: float) -> None:
        """Send the target to the robot's controller, and the gripper's position (m) to its own.

        Raises:
            RuntimeError: no controller listens.
        """
        self._command.require_reader()
        self._command.publish(self._message(target, now))
        self._gripper.publish(self._gripper.type(data=array.array("d", [target.gripper_m])))

    def hold(self, now: float) -> None:  # noqa: B027 - most controllers need nothing
        """Stay: the controller holds the last target."""

    def read(self) -> JointMeasurement | None:
        """Return the newest joint states, stamped with the monotonic time of their arrival."""
        return self._states.newest

    def close(self) -> None:  # noqa: B027
        """Nothing to release: the controller holds the last target."""

    def publish(self) -> None:
        """Publish the end-effector pose when there are new joint states."""
        self._pose.publish(self._states.newest)

    @abstractmethod
    def _message(self, target: JointTarget, now: float) -> Any:
        """Return the controller's message for ``target``."""

    def _stamp(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


class JointTrajectoryDriver(ControllerDriver):
    """ros2_control's ``JointTrajectoryController``: each message is the way of the last 0.05 s, then rest.

    A controller begins a new trajectory at once, with its first point. Were that the newest target, ahead in
    time, one that updates as often as we send would begin anew for ever and never move. Only positions are
    given: with a speed at its end it would refuse the trajectory, or run on when the next one is missing.
    """

    command_key = "joint_trajectory"

    def __init__(self, node: Node, description: RobotDescription) -> None:
        super().__init__(node, description)
        self._way: list[tuple[float, FloatArray]] = []  # the last targets and their times (s)

    def _message(self, target: JointTarget, now: float) -> Any:
        self._way = [*self._way_until(now), (now, target.joints)]
        start, _ = self._way[0]
        if now - start < TRAJECTORY_SECONDS / 2.0:  # after a pause there is no way yet: go there gently
            points = [_point(target.joints, TRAJECTORY_SECONDS)]
        else:
            points = [_point(joints, time - start) for time, joints in self._way]
        return self._command.type(
            joint_names=list(self._description.joints), points=points
        )  # no stamp: at once

    def _way_until(self, now: float) -> list[tuple[float, FloatArray]]:
        return [(time, joints) for time, joints in self._way if 0.0 < now - time <= TRAJECTORY_SECONDS]


def _point(joints: FloatArray, seconds: float) -> JointTrajectoryPoint:
    duration = Duration(sec=0, nanosec=round(seconds * 1e9))
    return JointTrajectoryPoint(positions=array.array("d", joints), time_from_start=duration)


class CartesianPoseDriver(ControllerDriver):
    """A Cartesian impedance controller, such as CRISP's: the target's pose in the base frame."""

    command_key = "target_pose"

    def __init__(self, node: Node, description: RobotDescription) -> None:
        super().__init__(node, description)
        self._kinematics = ArmKinematics(description)

    def _message(self, target: JointTarget, now: float) -> Any:
        pose = self._kinematics.forward(target.joints)
        return to_pose(pose.position, pose.quaternion, self._stamp(), self._description.base_frame)


class ServoDriver(ControllerDriver):
    """MoveIt Servo: the twist of the target, plus a share of what the end effector lags behind it.

    Twists are in the base frame, in m/s and rad/s (Servo's ``speed_units``), within the description's speed
    limits. On a halt zero twists are sent, then nothing: Servo halts by itself when commands stop coming.
    """

    command_key = "servo_twist"

    def __init__(self, node: Node, description: RobotDescription) -> None:
        super().__init__(node, description)
        self._kinematics = ArmKinematics(description)
        self._last: tuple[Pose, float] | None = None

    def hold(self, now: float) -> None:
        """Send zero twists for a while after the last target."""
        if self._last is not None and now - self._last[1] < ZERO_TWIST_SECONDS:
            self._command.publish(self._twist(np.zeros(6)))

    def close(self) -> None:
        """Halt."""
        self._command.publish(self._twist(np.zeros(6)))

    def _message(self, target: JointTarget, now: float) -> Any:
        pose, measured = self._kinematics.forward(target.joints), self._states.newest
        twist = np.zeros(6)
        if self._last is not None and 0.0 < now - self._last[1] < PAUSE_SECONDS:
            twist += difference(self._last[0], pose) / (now - self._last[1])
        if measured is not None:
            twist += TWIST_GAIN * difference(self._kinematics.forward(measured.joints), pose)
        self._last = pose, now
        return self._twist(limited(twist, self._description.speed.linear, self._description.speed.angular))

    def _twist(self, twist: FloatArray) -> Any:
        message = self._command.type()
        message.header.stamp, message.header.frame_id = to_stamp(self._stamp()), self._description.base_frame
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = twist.tolist()
        return message


def difference(start: Pose, end: Pose) -> FloatArray:
    """Return the way (6,) from one pose to another in the base frame: m, and a rotation vector in rad."""
    return np.concatenate([end.position - start.position, rotation_between(start.quaternion, end.quaternion)])


def limited(twist: FloatArray, linear: float, angular: float) -> FloatArray:
    """Return the twist (6,) shortened, in its direction, to the limits in m/s and rad/s."""
    excess = max(math.hypot(*twist[:3]) / linear, math.hypot(*twist[3:]) / angular, 1.0)
    return twist / excess
