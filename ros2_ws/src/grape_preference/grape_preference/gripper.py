"""Where the gripper is: spheres that fill fingers and palm, from the end effector's pose and the opening."""

from __future__ import annotations

import numpy as np

from grape_preference.appearance import gripper_shape
from grape_preference.tracks import KeypointTracks


def end_effector_axes(quaternions: np.ndarray) -> np.ndarray:
    """Return (T, 3, 3): the gripper's x (approach), y and z axis in the base frame, one a row.

    quaternions: (T, 4) xyzw, of any length but zero; zero gives NaN.
    """
    x, y, z, w = quaternions.T
    rows = [
        [w * w + x * x - y * y - z * z, 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)],
        [2.0 * (x * y - w * z), w * w - x * x + y * y - z * z, 2.0 * (y * z + w * x)],
        [2.0 * (x * z + w * y), 2.0 * (y * z - w * x), w * w - x * x - y * y + z * z],
    ]
    axes: np.ndarray = np.moveaxis(np.array(rows) / (quaternions**2).sum(axis=1), 2, 0)
    return axes


def gripper_spheres(tracks: KeypointTracks) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres (T, S, 3), base frame, and radii (S,) of the spheres, in metres."""
    shape = gripper_shape()
    half_gap = shape.closed + tracks.gripper * (shape.open - shape.closed)
    palm = np.broadcast_to(shape.palm[:, :3], (len(tracks), len(shape.palm), 3))
    left = np.repeat(shape.fingers[None, :, :3], len(tracks), axis=0)
    left[:, :, 1] += half_gap[:, None]
    local = np.concatenate([palm, left, left * [1.0, -1.0, 1.0]], axis=1)
    centres = tracks.end_effector_positions[:, None] + local @ end_effector_axes(
        tracks.end_effector_quaternions
    )
    return centres, np.concatenate([shape.palm[:, 3], shape.fingers[:, 3], shape.fingers[:, 3]])
