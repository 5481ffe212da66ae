"""Stands in for a robot and its controller: follows one kind of command and publishes joint states at 100 Hz.

``fake_robot.py <driver> <robot>``; SIGUSR1: it no longer follows commands, but its joint states go on. When
commands stop coming it does what the controllers it stands for do: a trajectory ends on its last point,
MoveIt Servo halts after 0.1 s, an impedance controller holds the last pose.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import numpy as np
import rclpy
from grape_episodes import contract
from grape_policy.arm.description import RobotDescription, load_description
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotated
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import to_joint_state
from grape_policy.nodes.messages import interface_type
from rclpy.node import Node

TICK = 0.01
KEYS = {"servo": "servo_twist", "joint_trajectory": "joint_trajectory", "cartesian_pose": "target_pose"}
SERVO_TIMEOUT = 0.1  # MoveIt Servo's incoming_command_timeout
IMPEDANCE_SPEED = 1.0  # rad/s a joint gives way at


class FakeRobot(Node):
    """The robot in memory, without mass; the gripper is where it is told to be."""

    def __init__(self, driver: str, robot: RobotDescription) -> None:
        super().__init__("fake_robot")
        self._robot, self._driver = robot, driver
        self._kinematics = ArmKinematics(robot)
        self._joints, self._gripper = robot.home.copy(), robot.gripper.open
        self._way = np.array([0.0]), self._joints[None]  # times and points of the trajectory
        self._goal = self._joints
        # Servo adds up its steps: from where the joints are, a small one would seem to be reached already.
        self._pose = self._kinematics.forward(self._joints)
        self._twist, self._commanded = np.zeros(6), -np.inf
        self._ticked = time.monotonic()
        self.deaf = False
        self._states = base.publisher(self, "joint_states")
        self._listen(KEYS[driver], getattr(self, f"_on_{driver}"))
        self._listen("gripper_command", self._on_gripper)
        self.create_timer(TICK, self._tick)

    def _listen(self, key: str, callback: Any) -> None:
        topic = contract.topics()[key]
        name = self._robot.topics.get(key, topic.name)
        self.create_subscription(interface_type(topic.type), name, callback, base.qos_profile(key))

    def _on_gripper(self, message: Any) -> None:
        self._gripper = message.data[0]

    def _on_joint_trajectory(self, message: Any) -> None:
        """Begin the trajectory now, at the present joints if its first point lies in the future."""
        assert tuple(message.joint_names) == self._robot.joints
        durations = [point.time_from_start for point in message.points]
        times = np.array([duration.sec + duration.nanosec * 1e-9 for duration in durations])
        assert np.all(np.diff(times) > 0.0)
        points = np.array([point.positions for point in message.points])
        if times[0] > 0.0:
            times, points = np.array([0.0, *times]), np.vstack([self._joints, points])
        self._way = times + time.monotonic(), points

    def _on_cartesian_pose(self, message: Any) -> None:
        assert message.header.frame_id == self._robot.base_frame
        p, q = message.pose.position, message.pose.orientation
        goal = Pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
        self._goal = self._kinematics.inverse(goal, self._joints).joints

    def _on_servo(self, message: Any) -> None:
        assert message.header.frame_id == self._robot.base_frame
        linear, angular = message.twist.linear, message.twist.angular
        self._twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        self._commanded = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        seconds, self._ticked = now - self._ticked, now  # a busy machine ticks less often
        if self.deaf:
            pass
        elif self._driver == "servo":
            self._servo(now, seconds)
        elif self._driver == "joint_trajectory":
            times, points = self._way
            self._joints = np.array([np.interp(now, times, column) for column in points.T])
        else:
            step = IMPEDANCE_SPEED * seconds
            self._joints = self._joints + np.clip(self._goal - self._joints, -step, step)
        stamp = self.get_clock().now().nanoseconds
        positions = [*self._joints, self._gripper]
        names = self._robot.joint_state_names
        self._states.publish(to_joint_state(names, positions, stamp, self._robot.base_frame))

    def _servo(self, now: float, seconds: float) -> None:
        if now - self._commanded > SERVO_TIMEOUT:
            return
        pose, step = self._pose, self._twist * seconds
        self._pose = Pose(pose.position + step[:3], rotated(step[3:], pose.quaternion))
        self._joints = self._kinematics.inverse(self._pose, self._joints).joints


def main() -> None:
    """Run until interrupted."""
    rclpy.init()
    robot = FakeRobot(sys.argv[1], load_description(sys.argv[2]))
    signal.signal(signal.SIGUSR1, lambda *_: setattr(robot, "deaf", True))
    rclpy.spin(robot)


if __name__ == "__main__":
    main()
