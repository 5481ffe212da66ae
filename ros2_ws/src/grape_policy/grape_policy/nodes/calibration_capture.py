"""Captures board images with the gripper's pose from the running graph, whenever the arm stands still.

Whoever moves the arm needs no keyboard: hold a new pose for a second and it is taken.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from grape_episodes import contract
from rclpy.qos import DurabilityPolicy
from scipy.spatial.transform import Rotation

from grape_policy.camera.board import FEWEST_CORNERS, Board
from grape_policy.camera.captures import Capture, save_capture, save_setup
from grape_policy.camera.hand_eye import difference
from grape_policy.camera.types import Intrinsics
from grape_policy.nodes import base
from grape_policy.nodes.messages import from_image, interface_type, to_nanoseconds

STILL_SECONDS, STILL_MM, STILL_DEGREES = 1.0, 0.5, 0.2
NEW_MM, NEW_DEGREES = 20.0, 5.0  # from every pose taken so far, one of the two


class BoardCapture:
    """A client of the running graph that writes captures into ``folder``; ``say`` gets lines for people."""

    def __init__(self, folder: Path, board: Board, say: Callable[[str], None]) -> None:
        self._folder, self._board, self._say = folder, board, say
        self._intrinsics: Intrinsics | None = None
        self._poses: deque[tuple[int, np.ndarray]] = deque(maxlen=1000)
        self._image: Any = None
        self._refused: np.ndarray | None = None
        self.taken: list[np.ndarray] = []
        rclpy.init()
        self._node = rclpy.create_node("calibration_capture")
        base.subscription(self._node, "color_image", self._on_image)
        base.subscription(self._node, "end_effector_pose", self._on_pose)
        latched = base.qos_profile("camera_info")
        repeated = base.qos_profile("camera_info")
        repeated.durability = DurabilityPolicy.VOLATILE  # drivers that are not ours do not latch it
        topic = contract.topics()["camera_info"]
        for profile in (latched, repeated):
            self._node.create_subscription(interface_type(topic.type), topic.name, self._on_info, profile)

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        rclpy.try_shutdown()

    def run(self, poses: int, silence: float = 20.0) -> None:
        """Capture until there are ``poses``.

        Raises:
            RuntimeError: no images, camera calibration or gripper poses came for ``silence`` s.
        """
        heard = time.monotonic()
        while len(self.taken) < poses:
            rclpy.spin_once(self._node, timeout_sec=0.1)
            missing = [
                name
                for name, value in (
                    ("color_image", self._image),
                    ("camera_info", self._intrinsics),
                    ("end_effector_pose", self._poses),
                )
                if not value
            ]
            if not missing:
                self._consider()
                heard = time.monotonic()
            elif time.monotonic() - heard > silence:
                topics = ", ".join(contract.topics()[name].name for name in missing)
                raise RuntimeError(f"nothing came on {topics} for {silence:g} s; does the graph run?")

    def _on_image(self, message: Any) -> None:
        self._image = message

    def _on_info(self, message: Any) -> None:
        matrix = np.reshape(message.k, (3, 3)).astype(np.float64)
        distortion = tuple(float(value) for value in message.d)
        self._intrinsics = Intrinsics(
            int(message.width), int(message.height), matrix, distortion, str(message.distortion_model)
        )

    def _on_pose(self, message: Any) -> None:
        p, q = message.pose.position, message.pose.orientation
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        pose[:3, 3] = p.x, p.y, p.z
        self._poses.append((to_nanoseconds(message.header.stamp), pose))

    def _consider(self) -> None:
        """Take the newest image when the arm stood still around it in a new pose."""
        message, self._image = self._image, None
        stamp = to_nanoseconds(message.header.stamp)
        recent = [pose for when, pose in self._poses if stamp - when < STILL_SECONDS * 1e9]
        covered = self._poses[0][0] <= stamp - STILL_SECONDS * 1e9
        if (
            not covered
            or len(recent) < 5
            or any(_apart(recent[-1], p, STILL_MM, STILL_DEGREES) for p in recent)
        ):
            return
        known = [*self.taken, *([] if self._refused is None else [self._refused])]
        if all(_apart(recent[-1], pose, NEW_MM, NEW_DEGREES) for pose in known):
            self._take(from_image(message).copy(), recent[-1])

    def _take(self, image: np.ndarray, pose: np.ndarray) -> None:
        assert self._intrinsics is not None
        corners = len(self._board.detect(image)[0])
        if corners < FEWEST_CORNERS:
            self._refused = pose
            self._say(
                f"board not seen well: {corners} corners, {FEWEST_CORNERS} needed; turn it to the camera"
            )
            return
        if not self.taken:
            save_setup(self._folder, self._intrinsics, self._board)
        name = f"{len(list(self._folder.glob('*.png'))):04d}"
        save_capture(self._folder, Capture(name, image, pose))
        self.taken.append(pose)
        self._refused = None
        self._say(f"{name}: {corners} corners; {len(self.taken)} poses taken, move on")


def _apart(first: np.ndarray, second: np.ndarray, millimetres: float, degrees: float) -> bool:
    moved, turned = difference(first, second)
    return moved > millimetres or turned > degrees
