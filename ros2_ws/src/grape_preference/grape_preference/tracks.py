"""What the constraint language sees of an episode: keypoints, end effector and gripper over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class KeypointTracks:
    """Keypoints of one episode over its T+1 observations, in the base frame (metres).

    Attributes:
        names: the K object names.
        positions: (T+1, K, 3) centres; NaN where an object has not been seen yet.
        confidence: (T+1, K) in [0, 1]; 0 where the position is only held from earlier frames.
        extents: (K, 3) full size of each object along the base axes when first seen whole.
        end_effector_positions: (T+1, 3) from the joint states.
        end_effector_quaternions: (T+1, 4) xyzw; the gripper approaches along its own x axis.
        gripper: (T+1,) measured opening, 0 closed .. 1 open.
        times: (T+1,) seconds since the first observation.
        obstacles: (N, 3) what else stands on the table: x and y of a cell it covers, and its height there.
        obstacles_gone: (T+1,) share of an obstacle's surface that is no longer where it was at first.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    confidence: np.ndarray
    extents: np.ndarray
    end_effector_positions: np.ndarray
    end_effector_quaternions: np.ndarray
    gripper: np.ndarray
    times: np.ndarray
    obstacles: np.ndarray
    obstacles_gone: np.ndarray

    def __len__(self) -> int:
        return int(self.positions.shape[0])

    def index(self, name: str) -> int:
        """Return the row of keypoint ``name``; raise KeyError naming what is there."""
        if name not in self.names:
            raise KeyError(f"no keypoint {name!r}; there are {', '.join(self.names) or 'none'}")
        return self.names.index(name)
