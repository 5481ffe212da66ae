"""``grape calibrate capture`` beside a running graph: the arm moves, stands still, and the pose is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_scene import INTRINSICS, Scene, make_scene

pytestmark = pytest.mark.ros
pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

POSES = 8
HOLD_SECONDS, IMAGES_EVERY = 1.6, 5
MILLIMETRES, DEGREES = 4.0, 0.6  # half the poses that the instructions ask for


def command(name: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "grape_training.cli", "calibrate", name, str(folder), *options]


class Robot:
    """Publishes camera and gripper with the pose of one capture, at 20 Hz and 4 Hz."""

    def __init__(self, probe: Any) -> None:
        from grape_episodes import contract
        from grape_policy.nodes.messages import to_camera_info

        self.probe, self.frames = probe, contract.document()["frames"]
        probe.publish("camera_info", to_camera_info(INTRINSICS, time.time_ns(), self.frames["camera"]))

    def hold(self, image: np.ndarray, pose: np.ndarray, seconds: float, shake: float = 0.0) -> None:
        """Stay at ``pose`` for so long; ``shake`` (m) moves the gripper to and fro."""
        from grape_policy.nodes.arm_messages import to_pose
        from grape_policy.nodes.messages import to_image
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
        end = time.monotonic() + seconds
        for tick in count():
            stamp, place = time.time_ns(), pose[:3, 3] + shake * (-1) ** tick
            self.probe.publish("end_effector_pose", to_pose(place, turn, stamp, self.frames["base"]))
            if tick % IMAGES_EVERY == 0:
                self.probe.publish("color_image", to_image(image, "rgb8", stamp, self.frames["camera"]))
            self.probe.spin(0.05)
            if time.monotonic() >= end:
                return


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(seed=5, poses=POSES)


def test_poses_are_taken_where_the_arm_rests_and_give_the_camera(
    scene: Scene, probe: Any, ros_environment: dict[str, str], tmp_path: Path
) -> None:
    from grape_episodes.calibration import load_extrinsics
    from grape_policy.camera.hand_eye import difference
    from scipy.spatial.transform import Rotation

    folder = tmp_path / "captures"
    asked = command("capture", folder, "--poses", str(POSES))
    capture = subprocess.Popen(asked, env=ros_environment, text=True, stdout=subprocess.PIPE)
    try:
        robot = Robot(probe)
        robot.hold(scene.captures[0].image, scene.captures[0].base_from_gripper, HOLD_SECONDS, shake=0.002)
        assert not list(folder.glob("*.png")), "taken from a moving arm"
        blank = np.full_like(scene.captures[0].image, 90)
        robot.hold(blank, scene.captures[0].base_from_gripper, HOLD_SECONDS)
        for index, taken in enumerate(scene.captures[1:] + scene.captures[:1]):
            end = time.monotonic() + 20
            while len(list(folder.glob("*.png"))) <= index and time.monotonic() < end:
                robot.hold(taken.image, taken.base_from_gripper, HOLD_SECONDS)
            robot.hold(taken.image, taken.base_from_gripper, 0.5)
            assert len(list(folder.glob("*.png"))) == index + 1, "each pose once"
        said = capture.communicate(timeout=30)[0]
    finally:
        capture.kill()
        capture.wait()
    assert capture.returncode == 0, said
    assert "board not seen well" in said
    result = tmp_path / "camera.yaml"
    solved = command("solve", folder, "--output", str(result))
    subprocess.run(solved, env=os.environ, check=True, timeout=120)
    found, pose = load_extrinsics(result), np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_quat(found.quaternion_xyzw).as_matrix(), found.translation
    millimetres, degrees = difference(pose, scene.base_from_camera)
    assert millimetres < MILLIMETRES
    assert degrees < DEGREES


def test_a_silent_graph_is_told(ros_environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**ros_environment, "NO_COLOR": "1"}
    asked = command("capture", tmp_path / "captures")
    ended = subprocess.run(asked, env=environment, text=True, capture_output=True, timeout=90)
    assert ended.returncode != 0
    assert "does the graph run?" in ended.stderr
    assert "Traceback" not in ended.stderr
