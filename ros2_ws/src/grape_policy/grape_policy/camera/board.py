"""The ChArUco board the gripper holds for calibration: how it looks and where its corners are seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

MARKER_SHARE = 0.75  # of a square's side
FEWEST_CORNERS = 8  # of one image; fewer say little about the pose
DICTIONARY = cv2.aruco.DICT_4X4_50


@dataclass(frozen=True)
class Board:
    """A chessboard with markers in its white squares (dictionary 4x4_50).

    Attributes:
        columns: squares along x.
        rows: squares along y.
        square: side of a square in m, as measured on the printed board.
    """

    columns: int = 7
    rows: int = 5
    square: float = 0.03

    def __post_init__(self) -> None:
        markers = self.columns * self.rows // 2
        if min(self.columns, self.rows) < 3 or markers > 50 or not 0.002 <= self.square <= 0.5:
            raise ValueError(
                f"board of {self.columns}x{self.rows} squares of {self.square:g} m: use 3x3 to 10x10 squares "
                "of 2 to 500 mm; sizes are in metres"
            )

    @cached_property
    def _charuco(self) -> cv2.aruco.CharucoBoard:
        dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square, MARKER_SHARE * self.square, dictionary)

    @cached_property
    def _detector(self) -> cv2.aruco.CharucoDetector:
        parameters = cv2.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        charuco = cv2.aruco.CharucoParameters()
        return cv2.aruco.CharucoDetector(self._charuco, charuco, parameters)

    def corners(self) -> np.ndarray:
        """Return all inner corners (N, 3) in m in the board's frame."""
        return np.asarray(self._charuco.getChessboardCorners(), dtype=np.float64)

    def picture(self, pixels_per_square: int = 120) -> np.ndarray:
        """Return the board to print: uint8 (H, W), without a margin."""
        size = (self.columns * pixels_per_square, self.rows * pixels_per_square)
        return np.asarray(self._charuco.generateImage(size))

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (N,) and pixels (N, 2) of the corners seen in an RGB image; N may be 0."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        pixels, indices, _, _ = self._detector.detectBoard(grey)
        if indices is None or len(indices) == 0:
            return np.zeros(0, np.int64), np.zeros((0, 2))
        return np.asarray(indices).reshape(-1).astype(np.int64), np.asarray(pixels).reshape(-1, 2).astype(
            float
        )
