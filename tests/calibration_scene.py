"""Rendered images of a calibration board in a gripper, with known camera, lens, noise and blur."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from grape_policy.camera.board import Board
from grape_policy.camera.captures import Capture
from grape_policy.camera.types import Intrinsics
from scipy.spatial.transform import Rotation

LENS = (0.06, -0.12, 0.0005, -0.0004, 0.02)
INTRINSICS = Intrinsics(640, 480, np.array([[612.3, 0.0, 322.8], [0.0, 611.7, 237.1], [0.0, 0.0, 1.0]]), LENS)
SUPERSAMPLING = 2
PIXELS_PER_SQUARE = 60


def pose(turn_degrees: list[float], shift: list[float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    result[:3, 3] = shift
    return result


@dataclass(frozen=True)
class Scene:
    """Truth and captures."""

    board: Board
    base_from_camera: np.ndarray
    captures: list[Capture]


def make_scene(
    seed: int, poses: int = 15, *, tilt: float = 22.0, noise: float = 4.0, slip: float = 0.0
) -> Scene:
    """Render a board in ``poses`` gripper poses, tilted by up to ``tilt`` degrees about all axes.

    ``noise`` is the standard deviation in grey levels; ``slip`` (m) moves the board in the gripper half way.
    The arm's poses are off by 0.2 mm and 0.03 degrees (standard deviation), as a good arm's are.
    """
    rng = np.random.default_rng(seed)
    board = Board()
    camera = pose([-128.0 + rng.normal(0, 4), rng.normal(0, 4), 90.0 + rng.normal(0, 4)], [0.95, 0.03, 0.58])
    gripper_from_board = pose(
        (rng.normal(0, 8, 3) + np.array([0, -90, 0])).tolist(), [0.05, *rng.normal(0, 0.01, 2).tolist()]
    )
    centre = board.corners().mean(axis=0)
    captures = []
    for index in range(poses):
        facing = pose(rng.uniform(-tilt, tilt, 3).tolist(), [0, 0, 0])
        place = np.array([*rng.uniform([-0.09, -0.07], [0.09, 0.07]), rng.uniform(0.42, 0.62)])
        facing[:3, 3] = place - facing[:3, :3] @ centre
        slipped = pose([0, 0, 0], [slip * (index >= poses // 2), 0, 0])
        image = render(board, facing, rng, noise)
        gripper = camera @ facing @ np.linalg.inv(gripper_from_board @ slipped)
        wrong = pose(rng.normal(0, 0.03, 3).tolist(), rng.normal(0, 0.0002, 3).tolist())
        captures.append(Capture(f"{index:04d}", image, gripper @ wrong))
    return Scene(board, camera, captures)


@cache
def lens_rays() -> np.ndarray:
    """Return the direction (N, 3) in which each sample of the image looks, z = 1."""
    scale = 1.0 / SUPERSAMPLING
    columns, rows = np.meshgrid(np.arange(640 * SUPERSAMPLING), np.arange(480 * SUPERSAMPLING))
    seen = np.stack([(columns + 0.5) * scale - 0.5, (rows + 0.5) * scale - 0.5], -1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(seen, INTRINSICS.matrix, np.array(LENS), criteria=(3, 20, 1e-9))
    return np.column_stack([rays.reshape(-1, 2), np.ones(len(seen))]).astype(np.float32)


def render(board: Board, camera_from_board: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Return the RGB image of the board at this pose through the lens, blurred and noisy."""
    board_from_camera = np.linalg.inv(camera_from_board)
    directions = lens_rays() @ board_from_camera[:3, :3].T.astype(np.float32)
    origin = board_from_camera[:3, 3].astype(np.float32)
    points = origin[:2] + directions[:, :2] * (-origin[2] / directions[:, 2])[:, None]
    # The picture's pixel centres are half a pixel inside its edge, which is the board's edge.
    texture = (points / board.square * PIXELS_PER_SQUARE - 0.5).astype(np.float32)
    picture = cv2.copyMakeBorder(
        board.picture(PIXELS_PER_SQUARE), 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255
    )
    shape = (480 * SUPERSAMPLING, 640 * SUPERSAMPLING)
    maps = (texture[:, 0] + 60).reshape(shape), (texture[:, 1] + 60).reshape(shape)
    image = cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderValue=90.0)
    image = cv2.resize(image, (640, 480), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), 0.7).astype(float) * 0.8 + 20
    noisy = np.clip(image + rng.normal(0, noise, (480, 640)), 0, 255).astype(np.uint8)
    return np.repeat(noisy[..., None], 3, axis=2)
