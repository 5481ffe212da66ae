"""What the drivers by topics share: joint states in, end-effector pose out, and topics of commands."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from grape_episodes import contract
from rclpy.node import Node

from grape_policy.arm.description import RobotDescription
from grape_policy.arm.drivers import JointMeasurement
from grape_policy.arm.kinematics import ArmKinematics
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import from_joint_state, to_pose
from grape_policy.nodes.messages import MessageError, interface_type


class JointStates:
    """Keeps the newest ``joint_states``; damaged ones are dropped. The gripper may come in others."""

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._joints, self._gripper_joint = node, description.joints, description.gripper.joint
        self.newest: JointMeasurement | None = None
        self._gripper_m, self._force = math.nan, None
        self._subscription = base.subscription(node, "joint_states", self._receive)

    def _receive(self, message: Any) -> None:
        try:
            if self._gripper_joint in message.name:
                (self._gripper_m,) = from_joint_state(message, [self._gripper_joint])
                self._force = self._effort(message)
                if self._joints[0] not in message.name:
                    return
            joints = from_joint_state(message, self._joints)
        except MessageError as error:
            self._node.get_logger().warning(f"joint states dropped: {error}", throttle_duration_sec=5.0)
            return
        if all(math.isfinite(value) for value in (*joints, self._gripper_m)):
            self.newest = JointMeasurement(np.array(joints), self._gripper_m, time.monotonic(), self._force)

    def _effort(self, message: Any) -> Any:
        """Return the gripper's effort (N, whatever its sign), where the driver publishes efforts."""
        if len(message.effort) != len(message.name):
            return None
        return abs(float(message.effort[list(message.name).index(self._gripper_joint)]))


class EndEffectorPose:
    """Publishes where the end effector is, once for each new measurement."""

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._frame = node, description.base_frame
        self._kinematics = ArmKinematics(description)
        self._publisher = base.publisher(node, "end_effector_pose")
        self._published = -math.inf

    def publish(self, measured: JointMeasurement | None) -> None:
        """Publish the pose of ``measured``, unless it was published before."""
        if measured is None or measured.time <= self._published:
            return
        self._published = measured.time
        pose, stamp = self._kinematics.forward(measured.joints), self._node.get_clock().now().nanoseconds
        self._publisher.publish(to_pose(pose.position, pose.quaternion, stamp, self._frame))


class CommandTopic:
    """A topic of the robot's own controller: the contract's, or what the description's ``topics`` say."""

    def __init__(self, node: Node, description: RobotDescription, key: str) -> None:
        self.name = description.topics.get(key, contract.topics()[key].name)
        self.type = interface_type(contract.topics()[key].type)
        self._publisher = node.create_publisher(self.type, self.name, base.qos_profile(key))

    def publish(self, message: Any) -> None:
        """Publish, whether anybody listens or not."""
        self._publisher.publish(message)

    def require_reader(self) -> None:
        """Raise RuntimeError when nobody listens: a controller that is not there moves no arm."""
        if self._publisher.get_subscription_count() == 0:
            raise RuntimeError(f"nobody listens on {self.name}; is the robot's controller running?")
