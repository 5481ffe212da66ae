"""Camera, reset and judge of a stack with the mock arm: what a bench and a person are on a robot.

``python tests/mock_scene.py`` plays them as one node: noise at 10 Hz, every reset done, no success ever seen.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from grape_episodes import contract
from grape_policy.nodes import base
from grape_policy.nodes.messages import to_image
from grape_sim.node import camera_info
from rclpy.node import Node

FRAMES = 16


class MockScene(Node):
    """Serves reset and judge, and publishes images that always differ."""

    def __init__(self) -> None:
        super().__init__("mock_scene")
        camera, generator = contract.camera(), np.random.default_rng(0)
        shape = (FRAMES, camera.height, camera.width)
        self._colours = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        self._depths = generator.integers(400, 1200, shape, dtype=np.uint16)
        self._frame, self._name = 0, str(contract.document()["frames"]["camera"])
        self._colour, self._depth = base.publisher(self, "color_image"), base.publisher(self, "depth_image")
        self._info = base.publisher(self, "camera_info")
        self._info.publish(camera_info(time.time_ns()))
        base.service(self, "reset_scene", self._on_reset)
        base.service(self, "judge_episode", lambda request, response: response)
        base.heartbeat(self, "camera")
        self.create_timer(0.1, self._send)

    def _send(self) -> None:
        now, index = time.time_ns(), self._frame % FRAMES
        self._colour.publish(to_image(self._colours[index], "rgb8", now, self._name))
        self._depth.publish(to_image(self._depths[index], "16UC1", now, self._name))
        self._frame += 1

    def _on_reset(self, request: Any, response: Any) -> Any:
        response.success, response.initial_state_id = True, request.initial_state_id
        response.instruction = "put the carrot on the plate"
        return response


if __name__ == "__main__":
    sys.exit(base.spin(MockScene))
