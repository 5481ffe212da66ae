"""Joint states, joint commands and end-effector poses as ROS messages."""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from grape_policy.nodes.messages import MessageError, to_stamp


def to_joint_state(names: Sequence[str], positions: Iterable[float], stamp_ns: int, frame_id: str) -> Any:
    """Return a ``JointState`` with positions (rad; m for the gripper)."""
    message = JointState(name=list(names), position=array.array("d", positions))
    message.header.stamp, message.header.frame_id = to_stamp(stamp_ns), frame_id
    return message


def from_joint_state(message: Any, names: Sequence[str]) -> list[float]:
    """Return the positions of ``names`` in that order.

    Raises:
        MessageError: a joint is missing, or names and positions differ in number.
    """
    if len(message.name) != len(message.position):
        raise MessageError(f"joint state has {len(message.name)} names but {len(message.position)} positions")
    found = dict(zip(message.name, message.position, strict=True))
    missing = [name for name in names if name not in found]
    if missing:
        raise MessageError(f"joint state lacks {', '.join(missing)}; it has {', '.join(found)}")
    return [found[name] for name in names]


def to_pose(position: Iterable[float], quaternion: Iterable[float], stamp_ns: int, frame_id: str) -> Any:
    """Return a ``PoseStamped`` from a position (m) and a quaternion xyzw in ``frame_id``."""
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = to_stamp(stamp_ns), frame_id
    point, orientation = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = (float(v) for v in position)
    orientation.x, orientation.y, orientation.z, orientation.w = (float(v) for v in quaternion)
    return message
