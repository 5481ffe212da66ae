"""What stands on the table and is no object of the task: found in the first frame, watched in the others.

An obstacle is kept as columns: the cells of the table that it covers and how high it is there. What is below
a visible point counts as filled: the camera sees an obstacle from one side only, and it stands on the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from grape_preference.appearance import workspace
from grape_preference.segmentation import Projector

CELL = 0.01  # m, side of a cell
LOW = 0.008  # m; what is lower is passed over by everything but a finger that presses on the table
STANDING = 0.06  # m; what has no visible point below hangs in the air: it is part of the arm
BASE_REACH, HAND_REACH = 0.13, 0.06  # m from the arm's base axis and the end effector: the arm itself
OBJECT_SLACK = 0.015  # m around the box of an object of the task that count as the object
MIN_VOXELS = 8  # fewer are stray depth pixels
GONE = 0.02  # m by which the camera must see through a point's place to know that it has gone
FAR = 1.0  # m, the gap where there is no obstacle


@dataclass(frozen=True)
class Obstacles:
    """The obstacles of one episode, base frame, metres.

    columns: (N, 3) x and y of a cell's centre and the height of the obstacle there.
    gone: (T+1,) share of the surface of one obstacle, the most disturbed one, that is no longer where it was.
    """

    columns: np.ndarray
    gone: np.ndarray


def find_obstacles(
    depths: np.ndarray, projector: Projector, boxes: np.ndarray, end_effector: np.ndarray
) -> Obstacles:
    """Find the obstacles in the first frame and see in each frame how much of them has gone.

    Args:
        depths: (T+1, H, W) uint16 mm; 0 where the camera does not know.
        projector: of the camera that took them.
        boxes: (K, 2, 3) lower and upper corners of the task's objects at the first frame; NaN: not found.
        end_effector: (3,) at the first frame.
    """
    pixels, points = _standing_out(depths[0], projector, boxes)
    cells = np.floor((points - workspace()[0]) / CELL).astype(int)
    labels, kept = _components(cells, points, end_effector)
    pixels, points, cells, labels = pixels[kept], points[kept], cells[kept], labels[kept]
    return Obstacles(_columns(cells, points), _gone(depths, pixels, cells, labels))


def _standing_out(
    depth: np.ndarray, projector: Projector, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 2) and points (n, 3) above the table, in the workspace, not of the task's objects."""
    v, u = np.nonzero(projector.above_table(depth))
    pixels = np.stack([u, v], axis=1)
    points = projector.points(pixels, depth)
    places = np.ascontiguousarray(points.T)
    chosen = (places[2] > LOW) & (places[0] ** 2 + places[1] ** 2 > BASE_REACH**2)
    chosen &= _within(places, *workspace())
    for low, high in boxes:
        chosen &= ~_within(places, low - OBJECT_SLACK, high + OBJECT_SLACK)
    return pixels[chosen], points[chosen]


def _within(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.asarray(((places > low[:, None]) & (places < high[:, None])).all(axis=0))


def _components(
    cells: np.ndarray, points: np.ndarray, end_effector: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the component (n,) that each point belongs to, and whether (n,) that is an obstacle."""
    if len(points) == 0:
        return np.zeros(0, int), np.zeros(0, bool)
    grid = np.zeros(cells.max(axis=0) + 1, bool)
    grid[tuple(cells.T)] = True
    touching, count = ndimage.label(grid, np.ones((3, 3, 3)))
    labels = touching[tuple(cells.T)]
    index = np.arange(count + 1)
    bottom = ndimage.minimum(points[:, 2], labels, index)
    hand = ndimage.minimum(np.linalg.norm(points - end_effector, axis=1), labels, index)
    voxels = np.bincount(touching.ravel(), minlength=count + 1)
    obstacle = (bottom < STANDING) & (hand > HAND_REACH) & (voxels >= MIN_VOXELS)
    return labels, obstacle[labels]


def _columns(cells: np.ndarray, points: np.ndarray) -> np.ndarray:
    highest = np.argsort(-points[:, 2], kind="stable")
    _, first = np.unique(_numbers(cells[highest, :2]), return_index=True)
    chosen = highest[first]
    return np.column_stack([workspace()[0][:2] + (cells[chosen, :2] + 0.5) * CELL, points[chosen, 2]])


def _numbers(cells: np.ndarray) -> np.ndarray:
    """Return one number (n,) for each different row of non-negative ``cells`` (n, d)."""
    shape = cells.max(axis=0, initial=0) + 1
    return np.ravel_multi_index(tuple(cells.T), tuple(shape))


def _gone(depths: np.ndarray, pixels: np.ndarray, cells: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (T+1,): the largest share of an obstacle's surface through which the camera sees."""
    _, first = np.unique(_numbers(cells), return_index=True)  # one pixel a voxel
    u, v = pixels[first].T
    seen = depths[:, v, u].astype(np.int32)
    through = seen > seen[0] + round(GONE * 1000)
    shares = [through[:, labels[first] == label].mean(axis=1) for label in np.unique(labels)]
    return np.max(shares, axis=0) if shares else np.zeros(len(depths))


def box_gap(columns: np.ndarray, centres: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Return the gap (T,) m between a box and the nearest column; negative is the overlap's depth.

    Args:
        columns: (N, 3) as in ``Obstacles``.
        centres: (T, 3) of the box over time.
        extent: (3,) its full size.
    """
    if len(columns) == 0:
        return np.full(len(centres), FAR)
    aside = np.abs(centres[:, None, :2] - columns[:, :2]) - (extent[:2] + CELL) / 2
    above = centres[:, None, 2:] - extent[2] / 2 - columns[:, 2:]
    gaps = np.concatenate([aside, above], axis=2)
    outside = np.sqrt((np.maximum(gaps, 0.0) ** 2).sum(axis=2))
    nearest: np.ndarray = (outside + np.minimum(gaps.max(axis=2), 0.0)).min(axis=1)
    return np.minimum(nearest, FAR)


def sphere_gap(columns: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the gap (T,) m between the nearest of some spheres and the nearest column.

    Args:
        columns: (N, 3) as in ``Obstacles``.
        centres: (T, S, 3) of the spheres over time.
        radii: (S,) m.
    """
    if len(columns) == 0:
        return np.full(len(centres), FAR)
    x, y, z = np.moveaxis(centres, 2, 0)[..., None]  # (T, S, 1) each
    aside = np.maximum(np.sqrt((x - columns[:, 0]) ** 2 + (y - columns[:, 1]) ** 2) - CELL / 2, 0.0)
    above = np.maximum(z - columns[:, 2], 0.0)
    nearest: np.ndarray = (np.sqrt((aside**2 + above**2).min(axis=2)) - radii).min(axis=1)
    return np.minimum(nearest, FAR)
