"""Driver of an arm that another node of ours moves: joint targets out, joint states in (``sim``)."""

from __future__ import annotations

from rclpy.node import Node

from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import RobotDescription
from grape_policy.arm.drivers import JointMeasurement
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import to_joint_state
from grape_policy.nodes.drivers.joint_states import JointStates


class TopicDriver:
    """Publishes ``joint_command`` and keeps the newest ``joint_states``; that node publishes the pose."""

    def __init__(self, node: Node, description: RobotDescription) -> None:
        self._node, self._names, self._frame = node, description.joint_state_names, description.base_frame
        self._states = JointStates(node, description)
        self._publisher = base.publisher(node, "joint_command")

    def write(self, target: JointTarget, now: float) -> None:
        """Publish the target."""
        stamp = self._node.get_clock().now().nanoseconds
        positions = [*target.joints, target.gripper_m]
        self._publisher.publish(to_joint_state(self._names, positions, stamp, self._frame))

    def hold(self, now: float) -> None:
        """Stay: the last target holds."""

    def read(self) -> JointMeasurement | None:
        """Return the newest joint states, stamped with the monotonic time of their arrival."""
        return self._states.newest

    def close(self) -> None:
        """Nothing to release: the node owns publisher and subscription."""

    def publish(self) -> None:
        """Nothing to publish."""
