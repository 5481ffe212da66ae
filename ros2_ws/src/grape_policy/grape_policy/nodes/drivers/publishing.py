"""An arm that is driven from this process, whose joint states and pose the arm node publishes itself."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from rclpy.node import Node

from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import RobotDescription
from grape_policy.arm.drivers import ArmDriver, JointMeasurement, MockDriver
from grape_policy.arm.kinematics import ArmKinematics
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import to_joint_state, to_pose


class LiveMockDriver(MockDriver):
    """The kinematic arm in memory; its measurement is never stale."""

    def read(self) -> JointMeasurement:
        """Return the last target, measured now."""
        return replace(super().read(), time=time.monotonic())


class PublishingDriver:
    """Hands everything on to ``arm``; ``publish``, once a control period, says where it is."""

    def __init__(self, node: Node, description: RobotDescription, arm: ArmDriver) -> None:
        self._node, self._description, self._arm = node, description, arm
        self._kinematics = ArmKinematics(description)
        self._states = base.publisher(node, "joint_states")
        self._pose = base.publisher(node, "end_effector_pose")
        self._published = -math.inf

    def write(self, target: JointTarget, now: float) -> None:
        """Send the target."""
        self._arm.write(target, now)

    def hold(self, now: float) -> None:
        """Stay."""
        self._arm.hold(now)

    def read(self) -> JointMeasurement | None:
        """Return where the arm is now."""
        return self._arm.read()

    def close(self) -> None:
        """Release the arm."""
        self._arm.close()

    def publish(self) -> None:
        """Publish joint states and end-effector pose with the present stamp, once for each measurement."""
        measured, stamp = self._arm.read(), self._node.get_clock().now().nanoseconds
        if measured is None or measured.time <= self._published:
            return
        self._published = measured.time
        positions = [*measured.joints, measured.gripper_m]
        frame = self._description.base_frame
        self._states.publish(to_joint_state(self._description.joint_state_names, positions, stamp, frame))
        pose = self._kinematics.forward(measured.joints)
        self._pose.publish(to_pose(pose.position, pose.quaternion, stamp, frame))
