"""Where objects are in one RGB-D image: one interface for colours, foundation models and pointing VLMs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from grape_episodes.contract import Camera

from grape_preference.appearance import appearances, scene_objects, workspace
from grape_preference.segmentation import MIN_PIXELS, Candidate, Projector, box_candidate, propose
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_json import AnswerError
from grape_preference.vlm_prompts import pointing_question

NEAR_PIXELS = 6  # px that a pointed-at pixel may miss an object by
REACH = 0.12  # m from the pointed-at place to the farthest pixel of the same object
HUE_SLACK, COLOUR_SLACK = 2, 25  # around the colours seen in one image
HUE_SPREAD, GREY_SATURATION = 10, 60  # of the pixels of one colour
MAX_COLOURS, SMALL_SHARE = 3, 0.08  # of one object; smaller shares are shadows and edges
POINTING_SCALE = 2  # small images are shown enlarged


NAMELESS = re.compile(r"object_\d+(_part_\d+)?")  # what a proposer calls things that it cannot name


class Proposer(Protocol):
    """Finds object candidates in one image."""

    def propose(
        self, image: np.ndarray, depth: np.ndarray, camera: Camera, names: Sequence[str] = ()
    ) -> dict[str, Candidate]:
        """Return the candidates by name; what cannot be seen is left out.

        Args:
            image: (H, W, 3) uint8 RGB.
            depth: (H, W) uint16 mm aligned to the image.
            camera: that took it.
            names: objects to look for; empty: whatever there is to be found.
        """
        ...


class ColourProposer:
    """The default: table-plane removal and declared colours, no learned weights; see ``segmentation``."""

    def propose(
        self, image: np.ndarray, depth: np.ndarray, camera: Camera, names: Sequence[str] = ()
    ) -> dict[str, Candidate]:
        """See Proposer; raise ValueError for a name without declared appearance."""
        known = appearances()
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"no appearance is declared for {unknown[0]!r}; there are {', '.join(known)}")
        wanted = [known[name] for name in names or scene_objects()]
        return propose(image, depth, Projector(camera), wanted)


class PointingProposer:
    """A vision-language model points at each named object; depth makes the pixel a region and a box."""

    def __init__(self, client: VlmClient) -> None:
        self._client = client

    def propose(
        self, image: np.ndarray, depth: np.ndarray, camera: Camera, names: Sequence[str] = ()
    ) -> dict[str, Candidate]:
        """See Proposer; ``names`` are needed. Raise VlmError when the model does not answer."""
        if not names:
            raise ValueError("pointing needs the names of the objects to look for")
        scale = POINTING_SCALE
        shown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        points = self._client.ask(pointing_question(names, np.asarray(shown)), _read_points)
        projector = Projector(camera)
        above = projector.above_table(depth)
        found = {}
        for name, pixel in points.items():
            pixels = region_at(pixel // scale, above, depth, projector)
            if pixels is not None:
                found[name] = box_candidate(name, pixels, depth, projector)
        return found


def region_at(
    pixel: np.ndarray, above: np.ndarray, depth: np.ndarray, projector: Projector
) -> np.ndarray | None:
    """Return the pixels (n, 2) as (u, v) of what stands at ``pixel``, or None when nothing does.

    Args:
        pixel: (2,) int (u, v); it may miss the thing by NEAR_PIXELS.
        above: (H, W) bool, ``projector.above_table(depth)``.
        depth: (H, W) uint16 mm.
        projector: of the camera.
    """
    v, u = np.nonzero(above)
    if len(v) == 0:
        return None
    distance = np.hypot(u - pixel[0], v - pixel[1])
    nearest = int(distance.argmin())
    if distance[nearest] > NEAR_PIXELS:
        return None
    pixels = np.stack([u, v], axis=1)
    points = projector.points(pixels, depth)
    near = np.linalg.norm(points - points[nearest], axis=1) < REACH
    mask = np.zeros(above.shape, np.uint8)
    mask[v[near], u[near]] = 1
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    v, u = np.nonzero(labels == labels[v[nearest], u[nearest]])
    return np.stack([u, v], axis=1) if len(v) >= MIN_PIXELS else None


def in_workspace(points: np.ndarray) -> bool:
    """Return whether the middle of ``points`` (n, 3), base frame, is where objects are looked for."""
    lower, upper = workspace()
    middle = np.median(points, axis=0)
    return bool((middle >= lower).all() and (middle <= upper).all())


def declared_appearance(candidate: Candidate, image: np.ndarray) -> dict[str, Any]:
    """Return an entry for ``appearance.yaml`` with the colours that a candidate has in ``image``.

    The colour of most of its pixels is its body's; others belong to attached parts.
    """
    u, v = candidate.pixels.T
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[v, u].astype(int)
    body, *parts = [_ranges(hsv[group]) for group in _colour_groups(hsv)]
    size = round(float(np.linalg.norm(candidate.extent[:2])), 3)
    further = {"parts": [item for ranges in parts for item in ranges]} if parts else {}
    return {"body": body, **further, "size": size}


def _colour_groups(hsv: np.ndarray) -> list[np.ndarray]:
    """Split pixels (n, 3) into groups (n,) of one hue or grey, largest first; a small rest is left out."""
    grey, rest = hsv[:, 1] < GREY_SATURATION, np.ones(len(hsv), bool)
    groups: list[np.ndarray] = []
    while len(groups) < MAX_COLOURS and rest.sum() > SMALL_SHARE * len(hsv):
        if grey[rest].mean() > 0.5:
            group = rest & grey
        else:
            peak = np.bincount(hsv[rest & ~grey, 0], minlength=180).argmax()
            apart = np.abs(hsv[:, 0] - peak)
            group = rest & ~grey & (np.minimum(apart, 180 - apart) <= HUE_SPREAD)
        groups.append(group)
        rest &= ~group
    return sorted(groups, key=lambda group: -int(group.sum()))


def _ranges(hsv: np.ndarray) -> list[dict[str, list[int]]]:
    low, high = np.percentile(hsv[:, 1:], [3, 97], axis=0).astype(int)
    low, high = np.maximum(low - COLOUR_SLACK, 0), np.minimum(high + COLOUR_SLACK, 255)
    grey = float(np.median(hsv[:, 1])) < GREY_SATURATION  # its hue is noise
    hues = [(0, 179)] if grey else _hue_ranges(hsv[:, 0])
    return [{"lower": [first, *low.tolist()], "upper": [last, *high.tolist()]} for first, last in hues]


def _hue_ranges(hue: np.ndarray) -> list[tuple[int, int]]:
    """Return the ranges (OpenCV: 0..179, a circle) that hold most of ``hue``; two when red is in between."""
    turned = (hue + 90) % 180
    wraps = bool(np.ptp(np.percentile(turned, [3, 97])) < np.ptp(np.percentile(hue, [3, 97])))
    first, last = (int(x) for x in np.percentile(turned - 90 if wraps else hue, [3, 97]))
    first, last = first - HUE_SLACK, last + HUE_SLACK
    if first < 0:
        return [(0, last), (180 + first, 179)]
    return [(first, last)] if last < 180 else [(first, 179), (0, last - 180)]


def _read_points(document: Any) -> dict[str, np.ndarray]:
    points = {item["name"]: np.array([item["u"], item["v"]]) for item in document["points"]}
    if len(points) != len(document["points"]):
        raise AnswerError("points: an object is pointed at twice")
    return points
