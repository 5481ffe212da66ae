"""Object candidates in one RGB-D image: table-plane removal, colour segmentation, 3-D boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from grape_episodes.contract import Camera

from grape_preference.appearance import Appearance, ColourRange, workspace

TABLE_CLEARANCE = 0.0025  # m; pixels nearer to the table plane z = 0 are the table's
MIN_PIXELS = 12
PART_REACH = 3  # px between a part and the body that it belongs to
MAX_SIZE = 1.25  # times its declared size, from which on a blob is too large to be the object
FRAGMENT_SLACK = 0.012  # m that an object put together from fragments may be larger than declared
OUTLIERS = 0.02  # share of points cut off at either side of a box, against stray depth pixels


@dataclass(frozen=True)
class Candidate:
    """One object found in an image, in the base frame (metres).

    Attributes:
        name: the declared object that it looks like.
        lower, upper: (3,) corners of the box around its visible surface points.
        pixels: (n, 2) its pixels as (u, v).
        area: visible area facing the camera, m^2.
    """

    name: str
    lower: np.ndarray
    upper: np.ndarray
    pixels: np.ndarray
    area: float

    @property
    def extent(self) -> np.ndarray:
        """Size (3,) of the visible box."""
        size: np.ndarray = self.upper - self.lower
        return size


class Projector:
    """Turns pixels with depth into base-frame points, with the rays of one camera computed once."""

    def __init__(self, camera: Camera) -> None:
        v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float64)
        fx, fy = camera.intrinsics[0, 0], camera.intrinsics[1, 1]
        cx, cy = camera.intrinsics[0, 2], camera.intrinsics[1, 2]
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1)
        self.rays = rays @ camera.base_from_camera[:3, :3].T
        self.origin = camera.base_from_camera[:3, 3]
        self.pixel_area = 1.0 / (fx * fy)  # of a pixel at one metre
        self._ray_heights = self.rays[:, :, 2].astype(np.float32)

    def above_table(self, depth: np.ndarray) -> np.ndarray:
        """Return (H, W) bool: valid depth (mm), above the table plane and below the workspace's ceiling."""
        height = depth * np.float32(0.001) * self._ray_heights + np.float32(self.origin[2])
        above: np.ndarray = (height > TABLE_CLEARANCE) & (height < workspace()[1][2]) & (depth > 0)
        return above

    def points(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return (n, 3) base-frame points of pixels (n, 2) given as (u, v), for a depth image in mm."""
        u, v = pixels[:, 0], pixels[:, 1]
        metres = depth[v, u].astype(np.float64) * 0.001
        found: np.ndarray = self.origin + self.rays[v, u] * metres[:, None]
        return found


def propose(
    image: np.ndarray, depth: np.ndarray, projector: Projector, objects: Iterable[Appearance]
) -> dict[str, Candidate]:
    """Find each of ``objects`` in one image; those that cannot be seen are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) uint16 mm aligned to the image.
        projector: of the camera that took it.
        objects: the declared appearances to look for.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    free = projector.above_table(depth).astype(np.uint8)
    found = {}
    for item in objects:
        candidate = _find(item, hsv, free, depth, projector)
        if candidate is not None:
            found[item.name] = candidate
    return found


def _find(
    item: Appearance, hsv: np.ndarray, free: np.ndarray, depth: np.ndarray, projector: Projector
) -> Candidate | None:
    pixels = _object_pixels(colour_mask(hsv, item.body) & free, item.size, depth, projector)
    if pixels is None:
        return None
    if item.parts:
        parts = _touching(colour_mask(hsv, item.parts) & free, pixels)
        pixels = np.concatenate([pixels, parts])
    if item.parts:
        points = projector.points(pixels, depth)
        near = np.linalg.norm(points - np.median(points, axis=0), axis=1) < item.size
        pixels = pixels[near]
    return box_candidate(item.name, pixels, depth, projector)


def box_candidate(name: str, pixels: np.ndarray, depth: np.ndarray, projector: Projector) -> Candidate:
    """Return the candidate made of ``pixels`` (n, 2) as (u, v); stray depths are cut off its box."""
    ordered = np.sort(projector.points(pixels, depth), axis=0)
    cut = int(len(ordered) * OUTLIERS)
    metres = depth[pixels[:, 1], pixels[:, 0]] * 0.001
    area = float((metres**2).sum() * projector.pixel_area)
    return Candidate(name, ordered[cut], ordered[-1 - cut], pixels, area)


def colour_mask(hsv: np.ndarray, ranges: tuple[ColourRange, ...]) -> np.ndarray:
    """Return (H, W) uint8: 1 where the HSV image (OpenCV) lies in one of ``ranges``."""
    masks = [cv2.inRange(hsv, np.array(colour.lower), np.array(colour.upper)) for colour in ranges]
    return np.bitwise_or.reduce(np.array(masks, np.uint8)) & np.uint8(1)


def _object_pixels(
    mask: np.ndarray, size: float, depth: np.ndarray, projector: Projector
) -> np.ndarray | None:
    """Return (n, 2) pixels of the largest blob in the workspace and of what fits to it within ``size``.

    Fingers in front of an object cut it into fragments, so one blob alone is not the object.
    """
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return None
    window = mask[top : top + height, left : left + width]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(window, connectivity=8)
    order = [i for i in np.argsort(-stats[:, cv2.CC_STAT_AREA]) if i > 0 and stats[i, cv2.CC_STAT_AREA] >= 4]
    lower, upper = workspace()
    kept: list[np.ndarray] = []
    box: tuple[np.ndarray, np.ndarray] | None = None
    for label in order[:8]:
        pixels = _label_pixels(labels, stats[label], int(label)) + np.array([left, top])
        points = projector.points(pixels, depth)
        middle = np.median(points, axis=0)
        if (middle < lower).any() or (middle > upper).any():
            continue
        low, high = _box(points)
        if box is None:
            if (high - low).max() > MAX_SIZE * size:
                continue
            if len(pixels) < MIN_PIXELS:
                return None
        else:
            low, high = np.minimum(box[0], low), np.maximum(box[1], high)
            if (high - low).max() > size + FRAGMENT_SLACK:
                continue
        box = low, high
        kept.append(pixels)
    return np.concatenate(kept) if kept else None


def _box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper corner (3,) of the box around most of ``points`` (n, 3)."""
    cut = int(len(points) * OUTLIERS)
    ordered = np.sort(points, axis=0)
    return ordered[cut], ordered[-1 - cut]


def _label_pixels(labels: np.ndarray, stats: np.ndarray, label: int) -> np.ndarray:
    left, top, width, height = (int(stats[i]) for i in range(4))
    v, u = np.nonzero(labels[top : top + height, left : left + width] == label)
    return np.stack([u + left, v + top], axis=1)


def _touching(mask: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Return the pixels (n, 2) of those blobs of ``mask`` within PART_REACH of the ``body`` pixels."""
    left, top = np.maximum(body.min(axis=0) - 30, 0)
    right, bottom = body.max(axis=0) + 31
    window = mask[top:bottom, left:right]
    inside = np.zeros(window.shape, np.uint8)
    inside[body[:, 1] - top, body[:, 0] - left] = 1
    near = cv2.dilate(inside, np.ones((2 * PART_REACH + 1, 2 * PART_REACH + 1), np.uint8))
    _, labels = cv2.connectedComponents(window, connectivity=8)
    touched = np.unique(labels[(near > 0) & (labels > 0)])
    v, u = np.nonzero(np.isin(labels, touched) & (labels > 0))
    return np.stack([u + left, v + top], axis=1)
