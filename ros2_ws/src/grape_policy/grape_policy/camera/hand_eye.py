"""Where the camera is, from images of a board that the gripper holds in several poses (eye to hand).

Unknown are base_from_camera (X) and gripper_from_board (Y); each pose i gives base_from_gripper (B_i, from
the arm) and camera_from_board (A_i, from the image), with X A_i = B_i Y. The linear solution of all these
equations is the start; then X and Y are those that move the board's corners least from where they are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from grape_episodes.calibration import CalibrationError
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from grape_policy.camera.types import Intrinsics

FEWEST_POSES = 8
LEAST_TURN = 8.0  # degrees, spread of the gripper's turns about the second of their principal axes
OUTLIER_PIXELS = 1.0  # beyond this a corner weighs less
WORST_PIXELS = 2.0  # root mean square; more is a wrong board, a wrong calibration of the lens or a moving arm


@dataclass(frozen=True)
class View:
    """One image of the board: gripper pose (4, 4) in the base frame, corners (N, 3) m and pixels (N, 2)."""

    name: str
    base_from_gripper: np.ndarray
    corners: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Residual:
    """How one view fits, and how the result changes without it.

    Attributes:
        pixels: root mean square distance of seen and expected corners, px.
        millimetres, degrees: between the board's pose seen in this image alone, and expected.
        left_out_millimetres, left_out_degrees: change of the camera's pose when this view is left out.
    """

    name: str
    pixels: float
    millimetres: float
    degrees: float
    left_out_millimetres: float
    left_out_degrees: float


@dataclass(frozen=True)
class HandEye:
    """The result: camera in the base frame (4, 4), board in the gripper's (4, 4), and how well they fit."""

    base_from_camera: np.ndarray
    gripper_from_board: np.ndarray
    residuals: tuple[Residual, ...]
    pixels: float

    @property
    def left_out(self) -> tuple[float, float]:
        """The largest change of the camera's pose by leaving out one view: mm and degrees."""
        return (
            max(r.left_out_millimetres for r in self.residuals),
            max(r.left_out_degrees for r in self.residuals),
        )


def calibrate(views: list[View], intrinsics: Intrinsics) -> HandEye:
    """Return where the camera is.

    Raises:
        CalibrationError: too few poses, turned too little or about one axis only, or images and poses that do
            not fit together; the message says what to do.
    """
    check_poses([view.base_from_gripper for view in views])
    seen = [_board_pose(view, intrinsics) for view in views]
    start = _linear_solution([view.base_from_gripper for view in views], seen)
    camera, board = _refine(views, intrinsics, *start)
    errors = [_reprojection(view, intrinsics, camera, board) for view in views]
    overall = _root_mean_square(np.concatenate(errors))
    if not overall <= WORST_PIXELS:
        worst = views[int(np.argmax([_root_mean_square(error) for error in errors]))].name
        raise CalibrationError(
            f"images and poses do not fit together: {overall:.1f} px, at most {WORST_PIXELS:g} (worst: "
            f"{worst}). Check the board's square size, that nothing slipped in the gripper, and that the arm "
            "stood still"
        )
    residuals = [
        _residual(index, views, intrinsics, seen[index], camera, board) for index in range(len(views))
    ]
    return HandEye(camera, board, tuple(residuals), overall)


def check_poses(poses: list[np.ndarray]) -> None:
    """Refuse gripper poses (4, 4) from which the camera's pose cannot be told.

    Raises:
        CalibrationError: says what to add.
    """
    if len(poses) < FEWEST_POSES:
        raise CalibrationError(f"{len(poses)} usable poses, at least {FEWEST_POSES} are needed; capture more")
    turns = Rotation.from_matrix([pose[:3, :3] for pose in poses])
    vectors = (turns.mean().inv() * turns).as_rotvec(degrees=True)
    spread = np.sqrt(np.linalg.eigvalsh(vectors.T @ vectors / len(vectors)))[::-1]
    if spread[1] < LEAST_TURN:
        raise CalibrationError(
            f"the gripper was turned by {spread[0]:.1f} degrees about one axis and {spread[1]:.1f} about the "
            f"next; at least {LEAST_TURN:g} are needed about both. Add poses with the gripper tilted by 15 "
            "to 30 degrees about other axes"
        )


def _board_pose(view: View, intrinsics: Intrinsics) -> np.ndarray:
    """Return camera_from_board (4, 4) from one image."""
    found, turn, shift = cv2.solvePnP(
        view.corners, view.pixels, intrinsics.matrix, np.array(intrinsics.distortion)
    )
    if not found:
        raise CalibrationError(f"the board's pose in {view.name} cannot be told; leave this image out")
    return _pose(np.concatenate([turn.ravel(), shift.ravel()]))


def _pose(vector: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of a rotation vector (rad) and a translation (m), (6,)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(vector[:3]).as_matrix()
    pose[:3, 3] = vector[3:]
    return pose


def _vector(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([Rotation.from_matrix(pose[:3, :3]).as_rotvec(), pose[:3, 3]])


def _linear_solution(arm: list[np.ndarray], seen: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return X and Y of X A_i = B_i Y: rotations from the null space, then translations by least squares."""
    rows = [
        np.hstack([np.kron(np.eye(3), a[:3, :3].T), -np.kron(b[:3, :3], np.eye(3))])
        for b, a in zip(arm, seen, strict=True)
    ]
    null = np.linalg.svd(np.vstack(rows))[2][-1]
    camera, board = np.eye(4), np.eye(4)
    # The null vector is both rotations times one factor, whose sign makes them right-handed.
    sign = np.sign(np.linalg.det(null[:9].reshape(3, 3)))
    for pose, part in ((camera, null[:9]), (board, null[9:])):
        u, _, vt = np.linalg.svd(sign * part.reshape(3, 3))
        pose[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    left = np.vstack([np.hstack([np.eye(3), -b[:3, :3]]) for b in arm])
    right = np.concatenate([b[:3, 3] - camera[:3, :3] @ a[:3, 3] for b, a in zip(arm, seen, strict=True)])
    shifts = np.linalg.lstsq(left, right, rcond=None)[0]
    camera[:3, 3], board[:3, 3] = shifts[:3], shifts[3:]
    return camera, board


def _refine(
    views: list[View], intrinsics: Intrinsics, camera: np.ndarray, board: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    def errors(vector: np.ndarray) -> np.ndarray:
        found = _project(arm, corners, owner, intrinsics, _pose(vector[:6]), _pose(vector[6:]))
        return (found - pixels).ravel()

    arm = np.stack([view.base_from_gripper for view in views])
    corners = np.concatenate([view.corners for view in views])
    pixels = np.concatenate([view.pixels for view in views])
    owner = np.repeat(np.arange(len(views)), [len(view.corners) for view in views])
    start = np.concatenate([_vector(camera), _vector(board)])
    found = least_squares(errors, start, loss="huber", f_scale=OUTLIER_PIXELS)
    return _pose(found.x[:6]), _pose(found.x[6:])


def _project(
    arm: np.ndarray,
    corners: np.ndarray,
    owner: np.ndarray,
    intrinsics: Intrinsics,
    camera: np.ndarray,
    board: np.ndarray,
) -> np.ndarray:
    """Return the pixels (N, 2) of board corners (N, 3) m, with the gripper in ``arm[owner]`` of (V, 4, 4)."""
    poses = (np.linalg.inv(camera) @ arm @ board)[owner]
    seen = np.einsum("nij,nj->ni", poses[:, :3, :3], corners) + poses[:, :3, 3]
    x, y = (seen[:, :2] / seen[:, 2:]).T
    k1, k2, p1, p2, k3 = intrinsics.distortion
    r = x * x + y * y
    radial = 1.0 + r * (k1 + r * (k2 + r * k3))
    u = x * radial + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x)
    v = y * radial + p1 * (r + 2.0 * y * y) + 2.0 * p2 * x * y
    k = intrinsics.matrix
    return np.column_stack([k[0, 0] * u + k[0, 2], k[1, 1] * v + k[1, 2]])


def project(view: View, intrinsics: Intrinsics, camera: np.ndarray, board: np.ndarray) -> np.ndarray:
    """Return the pixels (N, 2) at which the view's corners should be seen."""
    owner = np.zeros(len(view.corners), np.int64)
    return _project(view.base_from_gripper[None], view.corners, owner, intrinsics, camera, board)


def _reprojection(view: View, intrinsics: Intrinsics, camera: np.ndarray, board: np.ndarray) -> np.ndarray:
    """Return where the corners should be seen less where they are, (N, 2) px."""
    return project(view, intrinsics, camera, board) - view.pixels


def _residual(
    index: int,
    views: list[View],
    intrinsics: Intrinsics,
    seen: np.ndarray,
    camera: np.ndarray,
    board: np.ndarray,
) -> Residual:
    view = views[index]
    expected = np.linalg.inv(camera) @ view.base_from_gripper @ board
    others = [other for other in views if other is not view]
    without, _ = _refine(others, intrinsics, camera, board)
    pixels = _root_mean_square(_reprojection(view, intrinsics, camera, board))
    return Residual(view.name, pixels, *difference(seen, expected), *difference(camera, without))


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return how far two poses (4, 4) are apart: mm and degrees."""
    turn = Rotation.from_matrix(first[:3, :3].T @ second[:3, :3]).magnitude()
    return float(np.linalg.norm(first[:3, 3] - second[:3, 3]) * 1e3), float(np.degrees(turn))


def _root_mean_square(errors: np.ndarray) -> float:
    """Return the root mean square length of (N, 2)."""
    return float(np.sqrt(np.mean(np.sum(errors**2, axis=1))))
