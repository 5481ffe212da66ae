"""Keypoints of an episode from its RGB-D images and joint states: detection, then association over time.

Nothing here sees the simulator's state. Each declared object is detected by itself in every frame;
a frame that shows it whole, before the hand first closes if there is one, gives its size. A detection that
shows all of the object places it directly, one that shows most of it as near to the last position as what is
visible allows. When less is seen, the flow of its visible points moves the last position; when the gripper
holds it, it moves with the end effector; otherwise the last position is kept with confidence 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from grape_episodes.contract import Camera
from grape_episodes.types import Episode

from grape_preference.appearance import (
    Appearance,
    appearances,
    gripper_joint,
    gripper_opening,
    relaxed,
)
from grape_preference.constraints import ConstraintError, plan_for_task
from grape_preference.language_functions import GRASP_CLOSED
from grape_preference.object_boxes import (
    REST_SLACK,
    WHOLE,
    ObjectSize,
    centre,
    nearest_centre,
    whole_size,
)
from grape_preference.obstacles import find_obstacles
from grape_preference.segmentation import Candidate, Projector, propose
from grape_preference.stage_scoring import ScoringError
from grape_preference.tracks import KeypointTracks

SEEN_SHARE = 0.3  # of the frames; an object found in fewer is looked for again, with wider colour ranges
PART = 0.15  # share of an object's visible area from which it is seen in part; from WHOLE on, whole
CLEAR = 0.95  # share from which nothing hides the object
FLOW_CONFIDENCE, CARRIED_CONFIDENCE = 0.5, 0.25
FLOW_POINTS, MIN_FLOW_POINTS = 40, 5
HOLD_REACH = 0.035  # m between the end effector and the surface of a held object's box


def track(
    episode: Episode, names: Sequence[str] | None = None, looks: Sequence[Appearance] = ()
) -> KeypointTracks | None:
    """Track ``names`` (default: the keypoints of the task's stages) through an episode.

    ``looks`` declares objects, or declares them otherwise than ``appearance.yaml`` does.

    Returns:
        Tracks over all T+1 frames, or None when the episode has no depth images. An object that is never seen
        has NaN positions; one that appears late stands at its first position before, with confidence 0.

    Raises:
        ScoringError: there are no stages for the task, a name has no declared appearance, or the joint states
            lack the gripper.
    """
    if episode.depths is None:
        return None
    names = tuple(names if names is not None else _keypoints_of(episode.manifest.task))
    known = {**appearances(), **{item.name: item for item in looks}}
    objects = [_declared(name, known) for name in names]
    projector = _projector(episode.camera)
    frames = _find(episode, projector, objects)
    lost = [item for item in objects if sum(item.name in f for f in frames) < SEEN_SHARE * len(frames)]
    if lost:  # perhaps the light is another one than was declared
        again = _find(episode, projector, [relaxed(item) for item in lost])
        frames = [{**found, **more} for found, more in zip(frames, again, strict=True)]
    opening = gripper_opening(_gripper_joint(episode))
    rows = [
        _Tracker(episode, projector, opening, [frame.get(name) for frame in frames]).run() for name in names
    ]
    positions = np.stack([row[0] for row in rows], axis=1)
    extents = np.stack([row[2] for row in rows])
    boxes = np.stack([positions[0] - extents / 2, positions[0] + extents / 2], axis=1)
    obstacles = find_obstacles(episode.depths, projector, boxes, episode.end_effector_positions[0])
    return KeypointTracks(
        names=names,
        positions=positions,
        confidence=np.stack([row[1] for row in rows], axis=1),
        extents=extents,
        end_effector_positions=episode.end_effector_positions,
        end_effector_quaternions=episode.end_effector_quaternions,
        gripper=opening,
        times=(episode.stamps_ns - episode.stamps_ns[0]) * 1e-9,
        obstacles=obstacles.columns,
        obstacles_gone=obstacles.gone,
    )


def _find(
    episode: Episode, projector: Projector, objects: Sequence[Appearance]
) -> list[dict[str, Candidate]]:
    assert episode.depths is not None
    pictures = zip(episode.images, episode.depths, strict=True)
    return [propose(image, depth, projector, objects) for image, depth in pictures]


def _keypoints_of(task: str) -> tuple[str, ...]:
    try:
        return plan_for_task(task).keypoints
    except ConstraintError as error:
        raise ScoringError("no_stages", str(error)) from None


def _declared(name: str, known: Mapping[str, Appearance]) -> Appearance:
    if name not in known:
        message = f"no appearance is declared for {name!r}; add it to appearance.yaml ({', '.join(known)})"
        raise ScoringError("missing_keypoints", message)
    return known[name]


def _projector(camera: Camera) -> Projector:
    arrays = (camera.intrinsics.tobytes(), camera.base_from_camera.tobytes())
    return _cached_projector(camera.width, camera.height, *arrays)


@lru_cache(maxsize=4)
def _cached_projector(width: int, height: int, intrinsics: bytes, pose: bytes) -> Projector:
    matrix = np.frombuffer(intrinsics, np.float64).reshape(3, 3)
    return Projector(Camera(width, height, matrix, np.frombuffer(pose, np.float64).reshape(4, 4)))


def _gripper_joint(episode: Episode) -> np.ndarray:
    if gripper_joint() not in episode.joint_names:
        raise ScoringError("missing_keypoints", f"the joint states have no joint {gripper_joint()!r}")
    column: np.ndarray = episode.joint_positions[:, episode.joint_names.index(gripper_joint())]
    return column


class _Tracker:
    """Follows one object by ``found``, a detection a frame; positions are the centre of its whole box."""

    def __init__(
        self,
        episode: Episode,
        projector: Projector,
        opening: np.ndarray,
        found: Sequence[Candidate | None],
    ) -> None:
        assert episode.depths is not None
        self.images, self.depths = episode.images, episode.depths
        self.end_effector = episode.end_effector_positions
        self.opening, self.projector, self.found = opening, projector, found

    def run(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions (T+1, 3), confidence (T+1,), extent (3,)."""
        steps = len(self.images)
        positions, confidence = np.full((steps, 3), np.nan), np.zeros(steps)
        size = whole_size(self.found, int(np.argmax(self.opening < GRASP_CLOSED)))
        if size is None:
            return positions, confidence, np.full(3, np.nan)
        last: np.ndarray | None = None
        for t, now in enumerate(self.found):
            share = size.share(now)
            if last is not None:
                last, confidence[t] = self._next(t, last, size)
            elif now is not None and share >= PART:
                last, confidence[t] = centre(now, size), share
            if last is not None:
                positions[t] = last
        first = np.flatnonzero(np.isfinite(positions[:, 0]))
        if len(first):
            positions[: first[0]] = positions[first[0]]
        return positions, confidence, size.extent

    def _next(self, t: int, last: np.ndarray, size: ObjectSize) -> tuple[np.ndarray, float]:
        """Return the position (3,) that follows ``last``, and a confidence."""
        now, share = self.found[t], size.share(self.found[t])
        if now is not None and self._rests(t, last, size, now):
            return last, share
        if now is not None and share >= WHOLE:
            shown = share >= CLEAR or size.turned(now)
            return (centre(now, size) if shown else nearest_centre(last, now, size)), share
        move, confidence = self._move(t, last, size)
        if now is None or share < PART or size.turned(now) or self._held(t, last, size):
            return last + move, confidence
        return nearest_centre(last + move, now, size), confidence

    def _move(self, t: int, last: np.ndarray, size: ObjectSize) -> tuple[np.ndarray, float]:
        """Return the motion (3,) since the last frame of an object not seen whole, and a confidence."""
        share = size.share(self.found[t])
        if self._held(t, last, size):
            return self.end_effector[t] - self.end_effector[t - 1], max(CARRIED_CONFIDENCE, share)
        before, now = self.found[t - 1], self.found[t]
        if before is not None and now is not None and share >= PART:
            move = self._flow(t, before, now)
            if move is not None:
                return move, FLOW_CONFIDENCE * share
        return np.zeros(3), 0.0

    def _rests(self, t: int, last: np.ndarray, size: ObjectSize, now: Candidate) -> bool:
        """Whether what is visible of a partly hidden object lies where it was, so that it has not moved.

        Its top is seen from above: if that is lower, the object has dropped.
        """
        low, high = last - size.extent / 2 - REST_SLACK, last + size.extent / 2 + REST_SLACK
        within = bool((now.lower >= low).all() and (now.upper <= high).all())
        dropped = bool(now.upper[2] < high[2] - 2 * REST_SLACK)
        partly = PART <= size.share(now) < CLEAR
        return partly and within and not dropped and not self._held(t, last, size)

    def _held(self, t: int, last: np.ndarray, size: ObjectSize) -> bool:
        gap = np.abs(last - self.end_effector[t - 1]) - size.extent / 2
        near = float(np.linalg.norm(np.maximum(gap, 0.0))) < HOLD_REACH
        return near and bool(self.opening[t] < GRASP_CLOSED and self.opening[t - 1] < GRASP_CLOSED)

    def _flow(self, t: int, before: Candidate, now: Candidate) -> np.ndarray | None:
        """Return the median 3-D motion (3,) of visible points by flow and depth; None if too few."""
        grey = [cv2.cvtColor(self.images[i], cv2.COLOR_RGB2GRAY) for i in (t - 1, t)]
        chosen = before.pixels[:: max(1, len(before.pixels) // FLOW_POINTS)]
        start = chosen.astype(np.float32).reshape(-1, 1, 2)
        end, status, _ = cv2.calcOpticalFlowPyrLK(grey[0], grey[1], start, np.empty_like(start))
        arrived = np.rint(end.reshape(-1, 2)).astype(int)
        height, width = grey[0].shape
        inside = (arrived >= 0).all(axis=1) & (arrived < (width, height)).all(axis=1) & (status.ravel() > 0)
        visible = np.zeros((height, width), bool)
        visible[now.pixels[:, 1], now.pixels[:, 0]] = True
        good = np.flatnonzero(inside)
        good = good[visible[arrived[good, 1], arrived[good, 0]]]
        if len(good) < MIN_FLOW_POINTS:
            return None
        moved = self.projector.points(arrived[good], self.depths[t])
        motion: np.ndarray = np.median(
            moved - self.projector.points(chosen[good], self.depths[t - 1]), axis=0
        )
        return motion
