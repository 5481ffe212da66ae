"""The kinematic arm in memory, which publishes its joint states and pose (``mock``)."""

from __future__ import annotations

import time

from rclpy.node import Node

from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import RobotDescription
from grape_policy.arm.drivers import JointMeasurement, MockDriver
from grape_policy.arm.kinematics import ArmKinematics
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import to_joint_state, to_pose


class PublishingMockDriver:
    """A ``MockDriver`` whose ``publish`` is called once a control period; its measurement is never stale."""

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._description = node, description
        self._arm = MockDriver(description)
        self._kinematics = ArmKinematics(description)
        self._states = base.publisher(node, "joint_states")
        self._pose = base.publisher(node, "end_effector_pose")

    def write(self, target: JointTarget, now: float) -> None:
        """Move there at once."""
        self._arm.write(target, now)

    def read(self) -> JointMeasurement:
        """Return where the arm is now."""
        measured = self._arm.read()
        return JointMeasurement(measured.joints, measured.gripper_m, time.monotonic())

    def close(self) -> None:
        """Nothing to release."""

    def publish(self) -> None:
        """Publish joint states and end-effector pose with the present stamp."""
        measured, stamp = self._arm.read(), self._node.get_clock().now().nanoseconds
        positions = [*measured.joints, measured.gripper_m]
        frame = self._description.base_frame
        self._states.publish(to_joint_state(self._description.joint_state_names, positions, stamp, frame))
        pose = self._kinematics.forward(measured.joints)
        self._pose.publish(to_pose(pose.position, pose.quaternion, stamp, frame))
