"""The box of an object that is seen in part: its size, and where its centre can be. Metres, base frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape_preference.segmentation import Candidate

WHOLE = 0.70  # share of an object's visible area from which it is seen whole
REST_SLACK = 0.006  # m by which visible points may leave the box of an object at rest
REST_HEIGHT = 0.02  # m; an object whose lowest visible point is lower stands on the table
FALLEN_TOP = 0.75  # share of its height below which the top of an object says that it has fallen over


@dataclass(frozen=True)
class ObjectSize:
    """What one object looks like when nothing hides it: box (3,) m and visible area m^2."""

    extent: np.ndarray
    area: float

    def share(self, candidate: Candidate | None) -> float:
        """Return which share (0..1) of the object a detection shows; 0 for none."""
        return 0.0 if candidate is None else min(candidate.area / self.area, 1.0)

    def turned(self, candidate: Candidate) -> bool:
        """Return whether more is visible than the box can hold: the object lies otherwise than it did."""
        return bool((candidate.extent > self.extent + REST_SLACK).any())


def whole_size(found: Sequence[Candidate | None], closing: int) -> ObjectSize | None:
    """Take size and area from the first frame in which the object is about as large as it ever gets.

    Frames before ``closing``, where the hand first closes (0: it never does), count alone if they show the
    object whole: moved by the hand it may lie otherwise, so that more of it is visible.
    """
    seen = [candidate for candidate in found if candidate is not None]
    if not seen:
        return None
    area = _usual_area(seen)
    untouched = [candidate for candidate in found[:closing] if candidate is not None]
    if untouched and _usual_area(untouched) >= WHOLE * area:
        seen, area = untouched, _usual_area(untouched)
    first = next(candidate for candidate in seen if candidate.area >= 0.9 * area)
    extent = first.extent.copy()
    if first.lower[2] < REST_HEIGHT:
        extent[2] = first.upper[2]  # it stands on the table, z = 0: the part below is only hidden
    return ObjectSize(extent, area)


def _usual_area(seen: Sequence[Candidate]) -> float:
    return float(np.percentile([candidate.area for candidate in seen], 90))


def nearest_centre(last: np.ndarray, candidate: Candidate, size: ObjectSize) -> np.ndarray:
    """Return the centre (3,) nearest to ``last`` whose box holds what is visible of a partly hidden object.

    The middle of what is visible would draw the object to the side from which it is seen; its top is seen
    from above. It must not have turned.
    """
    low, high = candidate.upper - size.extent / 2, candidate.lower + size.extent / 2
    middle = (low + high) / 2
    x, y, _ = np.clip(last, np.minimum(low, middle), np.maximum(high, middle))
    return np.array([x, y, centre(candidate, size)[2]])


def centre(candidate: Candidate, size: ObjectSize) -> np.ndarray:
    """Return the box centre (3,): the middle seen from above, and half the object's height below its top.

    An object whose top is far below its height has fallen over: it lies on the table, as high as its top.
    """
    middle, top = (candidate.lower + candidate.upper) / 2, candidate.upper[2]
    fallen = top < FALLEN_TOP * size.extent[2]
    return np.array([middle[0], middle[1], top / 2 if fallen else top - size.extent[2] / 2])
