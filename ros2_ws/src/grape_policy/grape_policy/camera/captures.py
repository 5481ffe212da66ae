"""A folder of images of the calibration board with the gripper's poses.

``setup.json`` holds the camera's intrinsics and the board; each pose is ``0000.png`` and ``0000.json``, of
which the second is written last, so that a pose whose file is there is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from grape_episodes.bag import write_durably
from grape_episodes.calibration import CalibrationError
from scipy.spatial.transform import Rotation

from grape_policy.camera.board import FEWEST_CORNERS, Board
from grape_policy.camera.hand_eye import View
from grape_policy.camera.types import Intrinsics

SETUP = "setup.json"


@dataclass(frozen=True)
class Capture:
    """One image, uint8 (H, W, 3) RGB, and the gripper's pose (4, 4) in the base frame."""

    name: str
    image: np.ndarray
    base_from_gripper: np.ndarray


def save_setup(folder: Path, intrinsics: Intrinsics, board: Board) -> None:
    """Begin or continue a folder.

    Raises:
        CalibrationError: it was begun with another camera or board.
    """
    camera = {**asdict(intrinsics), "matrix": intrinsics.matrix.tolist()}
    text = json.dumps({"camera": camera, "board": asdict(board)}, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETUP
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
        raise CalibrationError(f"{path} is of another camera or board; choose a new folder")
    write_durably(path, text)


def save_capture(folder: Path, capture: Capture) -> None:
    """Write one image and its pose."""
    if not cv2.imwrite(str(folder / f"{capture.name}.png"), capture.image[..., ::-1]):
        raise OSError(f"cannot write the image {capture.name}.png in {folder}; is the disk full?")
    pose = capture.base_from_gripper
    quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    document = {"position": pose[:3, 3].tolist(), "quaternion_xyzw": quaternion}
    write_durably(folder / f"{capture.name}.json", json.dumps(document) + "\n")


def load_captures(folder: Path) -> tuple[Intrinsics, Board, list[Capture]]:
    """Return the camera, the board and all poses of a folder.

    Raises:
        CalibrationError: a file is missing or damaged; the message names it.
    """
    camera, board = _read_setup(folder / SETUP)
    names = sorted(path.stem for path in folder.glob("*.json") if path.name != SETUP)
    captures = [_read_capture(folder, name) for name in names]
    for capture in captures:
        if capture.image.shape != (camera.height, camera.width, 3):
            raise CalibrationError(
                f"{folder / capture.name}.png is not of the camera's size; delete this pose"
            )
    return camera, board, captures


def usable_views(board: Board, captures: list[Capture]) -> tuple[list[View], dict[str, str]]:
    """Return the views in which the board is seen, and why the others were left out, by name."""
    views, skipped = [], {}
    corners = board.corners()
    for capture in captures:
        indices, pixels = board.detect(capture.image)
        if len(indices) < FEWEST_CORNERS:
            skipped[capture.name] = f"{len(indices)} corners seen, {FEWEST_CORNERS} needed"
        else:
            views.append(View(capture.name, capture.base_from_gripper, corners[indices], pixels))
    return views, skipped


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: {error}; capture again, or name a folder of captures") from error


def _read_setup(path: Path) -> tuple[Intrinsics, Board]:
    document = _read(path)
    try:
        fields = document["camera"]
        matrix = np.array(fields["matrix"], dtype=np.float64).reshape(3, 3)
        distortion = tuple(float(value) for value in fields["distortion"])
        camera = Intrinsics(
            int(fields["width"]), int(fields["height"]), matrix, distortion, str(fields["model"])
        )
        board = Board(**document["board"])
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"{path} is damaged: {error}; capture again in a new folder") from error
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CalibrationError(f"{path}: the camera has no focal length")
    if camera.model != "plumb_bob":
        raise CalibrationError(f"{path}: lenses of model {camera.model!r} are not supported, only plumb_bob")
    return camera, board


def _read_capture(folder: Path, name: str) -> Capture:
    document = _read(folder / f"{name}.json")
    pixels = cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_COLOR)
    if pixels is None:
        raise CalibrationError(f"{folder / name}.png is missing or damaged; delete {name}.json too")
    pose = np.eye(4)
    try:
        pose[:3, :3] = Rotation.from_quat(document["quaternion_xyzw"]).as_matrix()
        pose[:3, 3] = document["position"]
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"{folder / name}.json holds no pose: {error}; delete this pose") from error
    if not np.isfinite(pose).all():
        raise CalibrationError(f"{folder / name}.json holds a pose that is not finite; delete this pose")
    return Capture(name, np.ascontiguousarray(pixels[..., ::-1]), pose)
