"""Driver of an arm that another node moves: joint targets out, joint states in (``sim``)."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from rclpy.node import Node

from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import RobotDescription
from grape_policy.arm.drivers import JointMeasurement
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import from_joint_state, to_joint_state
from grape_policy.nodes.messages import MessageError


class TopicDriver:
    """Publishes ``joint_command`` and keeps the newest ``joint_states``; damaged ones are dropped."""

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._names, self._frame = node, description.joint_state_names, description.base_frame
        self._measured: JointMeasurement | None = None
        self._publisher = base.publisher(node, "joint_command")
        self._subscription = base.subscription(node, "joint_states", self._receive)

    def write(self, target: JointTarget, now: float) -> None:
        """Publish the target."""
        stamp = self._node.get_clock().now().nanoseconds
        positions = [*target.joints, target.gripper_m]
        self._publisher.publish(to_joint_state(self._names, positions, stamp, self._frame))

    def read(self) -> JointMeasurement | None:
        """Return the newest joint states, stamped with the monotonic time of their arrival."""
        return self._measured

    def close(self) -> None:
        """Nothing to release: the node owns publisher and subscription."""

    def _receive(self, message: Any) -> None:
        try:
            values = from_joint_state(message, self._names)
        except MessageError as error:
            self._node.get_logger().warning(f"joint states dropped: {error}", throttle_duration_sec=5.0)
            return
        if all(math.isfinite(value) for value in values):
            joints, force = np.array(values[:-1]), self._gripper_force(message)
            self._measured = JointMeasurement(joints, values[-1], time.monotonic(), force)

    def _gripper_force(self, message: Any) -> float | None:
        """Return the gripper's effort (N, whatever its sign), where the driver publishes efforts."""
        if len(message.effort) != len(message.name):
            return None
        return abs(float(message.effort[list(message.name).index(self._names[-1])]))
