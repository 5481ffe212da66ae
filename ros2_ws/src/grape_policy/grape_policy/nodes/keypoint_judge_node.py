"""Judges an episode under way by keypoints, where no simulator knows the truth: a camera is enough.

Serves ``judge_episode`` from what was seen since the episode began; started by ``judge:=keypoints``.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from grape_policy.collection.scene import View, judge_views
from grape_policy.nodes import base
from grape_policy.nodes.messages import MessageError, from_image, intrinsics_of, to_nanoseconds
from grape_policy.nodes.parameters import Parameter

PARAMETERS = (
    Parameter("period", 0.2, "Time between two images that are kept.", 0.05, 2.0, "s"),
    Parameter("longest", 600, "Images kept of an episode; later ones replace the last.", 10, 10_000),
)
SAME_MOMENT_NS = 50_000_000


class KeypointJudgeNode(base.ManagedNode):
    """Keeps the views of the present episode; looks for keypoints only when it is asked."""

    def __init__(self) -> None:
        super().__init__("keypoint_judge", PARAMETERS)

    def activate(self) -> None:
        """Watch camera and arm, and serve the verdict."""
        self._begin("")
        self._newest: dict[str, Any] = {}
        for key in ("joint_states", "end_effector_pose", "camera_info", "color_image"):
            base.subscription(self, key, partial(self._newest.__setitem__, key))
        base.subscription(self, "depth_image", self._on_depth)
        base.subscription(self, "episode_event", self._on_event)
        base.service(self, "judge_episode", self._on_judge)

    def _on_event(self, message: Any) -> None:
        if message.event == message.STARTED:
            self._begin(str(message.task))

    def _begin(self, task: str) -> None:
        """Forget what was seen: an episode of ``task`` begins (empty: none)."""
        self._task = task
        self._views: list[View] = []
        self._stamps: list[int] = []

    def _on_depth(self, message: Any) -> None:
        """Keep the view that this depth image completes."""
        stamp = to_nanoseconds(message.header.stamp)
        late = not self._stamps or stamp - self._stamps[-1] >= self.parameters.period * 1e9
        if not self._task or not late or len(self._newest) < 4:
            return
        colour = self._newest["color_image"]
        if abs(to_nanoseconds(colour.header.stamp) - stamp) > SAME_MOMENT_NS:
            return
        try:
            view = self._view(from_image(colour), from_image(message))
        except MessageError as error:
            self.get_logger().warning(f"image dropped: {error}", throttle_duration_sec=1.0)
            return
        if len(self._views) >= self.parameters.longest:
            self._views.pop()
            self._stamps.pop()
        self._views.append(view)
        self._stamps.append(stamp)

    def _view(self, image: np.ndarray, depth: np.ndarray) -> View:
        joints, pose = self._newest["joint_states"], self._newest["end_effector_pose"].pose
        p, q = pose.position, pose.orientation
        return View(
            image,
            depth,
            tuple(joints.name),
            np.array(joints.position),
            np.array([p.x, p.y, p.z]),
            np.array([q.x, q.y, q.z, q.w]),
            intrinsics_of(self._newest["camera_info"]),
        )

    def _on_judge(self, request: Any, response: Any) -> Any:
        if not self._views:
            response.success, response.message = False, "no image of an episode has come yet"
            return response
        try:
            response.success, response.message = judge_views(self._task, self._views, self._stamps)
        except ValueError as error:
            response.success, response.message = False, f"nobody can judge this: {error}"
        return response


def main(arguments: list[str] | None = None) -> int:
    """Run the judge until it is stopped."""
    return base.spin(KeypointJudgeNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
