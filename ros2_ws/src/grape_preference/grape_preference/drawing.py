"""Draw keypoints on camera images for reports."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from grape_episodes.contract import Camera

from grape_preference.tracks import KeypointTracks

_COLOURS = ((255, 90, 170), (60, 180, 255), (255, 200, 0), (160, 120, 255))
_HELD_COLOUR = (150, 150, 150)
_LABEL_COLOUR = (20, 20, 20)
_END_EFFECTOR_COLOUR = (0, 220, 120)
_OBSTACLE_COLOUR = (255, 60, 60)


def project(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Project base-frame points (n, 3) in metres to pixels (n, 2) as (u, v); NaN behind the camera."""
    rotation, origin = camera.base_from_camera[:3, :3], camera.base_from_camera[:3, 3]
    local = (points - origin) @ rotation
    depth = np.where(local[:, 2:] > 1e-6, local[:, 2:], np.nan)
    return (local / depth @ camera.intrinsics.T)[:, :2]


def draw_keypoints(
    image: np.ndarray, tracks: KeypointTracks, t: int, camera: Camera, scale: int = 2
) -> np.ndarray:
    """Return ``image`` (H, W, 3) RGB enlarged by ``scale`` with the keypoints of frame ``t`` drawn on it.

    A filled disc was seen, a grey ring is only kept from before; the cross is the end effector. Small dots
    are the tops of the obstacles, where they stood at first.
    """
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for place in project(tracks.obstacles, camera) * scale:
        if np.isfinite(place).all():
            cv2.circle(canvas, (int(place[0]), int(place[1])), scale, _OBSTACLE_COLOUR, -1, cv2.LINE_AA)
    places = project(tracks.positions[t], camera)
    for index, name in enumerate(tracks.names):
        if not np.isfinite(places[index]).all():
            continue
        confidence = float(tracks.confidence[t, index])
        colour = _COLOURS[index % len(_COLOURS)] if confidence > 0 else _HELD_COLOUR
        _disc(canvas, places[index] * scale, f"{name} {confidence:.2f}", colour, filled=confidence > 0)
    hand = project(tracks.end_effector_positions[t : t + 1], camera)[0]
    if np.isfinite(hand).all():
        centre = (int(hand[0] * scale), int(hand[1] * scale))
        cv2.drawMarker(canvas, centre, _END_EFFECTOR_COLOUR, cv2.MARKER_CROSS, 7 * scale, 2)
        _label(canvas, centre, f"gripper {tracks.gripper[t]:.2f}", _END_EFFECTOR_COLOUR)
    return np.asarray(canvas)


def draw_marks(image: np.ndarray, pixels: np.ndarray, texts: Sequence[str], scale: int = 2) -> np.ndarray:
    """Return ``image`` (H, W, 3) RGB enlarged by ``scale`` with a labelled disc at each pixel (n, 2)."""
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for index, (place, text) in enumerate(zip(pixels, texts, strict=True)):
        _disc(canvas, place * scale, text, _COLOURS[index % len(_COLOURS)], filled=True)
    return np.asarray(canvas)


def _disc(
    canvas: np.ndarray, place: np.ndarray, text: str, colour: tuple[int, int, int], filled: bool
) -> None:
    centre = (int(place[0]), int(place[1]))
    if filled:
        cv2.circle(canvas, centre, 6, colour, -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, 7, (255, 255, 255) if filled else colour, 2, cv2.LINE_AA)
    _label(canvas, centre, text, colour)


def _label(canvas: np.ndarray, at: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    x, y = at[0] + 10, at[1] - 8
    cv2.rectangle(canvas, (x - 2, y - height - 2), (x + width + 2, y + below), _LABEL_COLOUR, -1)
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
