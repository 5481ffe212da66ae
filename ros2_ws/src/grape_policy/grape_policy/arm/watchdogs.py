"""What the arm listens to while it follows actions: heartbeats of other nodes, and fresh images.

No ROS and no clock: times (monotonic s) come from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .description import FloatArray
from .safety import Reason

LAG, TURN_LAG, LAG_SECONDS = 0.04, 0.4, 0.3  # m, rad, s; the simulated arm lags by 25 mm at its fastest
VISIBLE_MOTION = 0.004  # m; several pixels, even at the far end of the table


@dataclass(frozen=True)
class Fault:
    """Why the arm must stop, for programs and in words."""

    reason: Reason
    message: str


class Heartbeats:
    """The newest beat of each named node (the bond of nav2's lifecycle manager, in one direction)."""

    def __init__(self, names: Sequence[str], timeout: float) -> None:
        self._timeout = timeout
        self._last = dict.fromkeys(names, -np.inf)

    def beat(self, name: str, now: float) -> None:
        """Note a beat; nodes that are not watched may beat too."""
        if name in self._last:
            self._last[name] = now

    def check(self, since: float, now: float) -> Fault | None:
        """Return the node that has been silent for the timeout while watched, that is from ``since`` on."""
        for name, last in self._last.items():
            if now - max(last, since) > self._timeout:
                message = f"no heartbeat of the {name} for {self._timeout:g} s; is it running?"
                return Fault(Reason.HEARTBEAT_LOST, message)
        return None


class Tracking:
    """Tells an arm that does not follow: a controller that is off, a brake that is on, an obstacle."""

    def __init__(self) -> None:
        self._following = -np.inf  # when the arm was last where it should be

    def check(self, lag: float, turn_lag: float, now: float) -> Fault | None:
        """Note how far (m, rad) the end effector is from its command; return a fault when that lasts."""
        if (lag <= LAG and turn_lag <= TURN_LAG) or self._following == -np.inf:
            self._following = now
        if now - self._following <= LAG_SECONDS:
            return None
        away = f"it is {lag * 1e3:.0f} mm and {turn_lag:.2f} rad away; is it enabled and free?"
        return Fault(Reason.FOLLOWING_ERROR, f"the arm has not followed for {LAG_SECONDS:g} s, {away}")


class ImageWatch:
    """Tells fresh images from late ones and from a camera that repeats itself while the arm moves.

    A repetition (same content, or a stamp that does not advance) is judged by the motion up to the image
    before: what is seen now may lag the arm by one image, but not by two.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._taken = -np.inf  # s
        self._stamp_ns, self._digest = -1, -1
        self._first: FloatArray | None = None  # where the end effector was when this content first came
        self._previous: FloatArray | None = None  # and when the image before came
        self._frozen = ""

    def see(self, stamp_ns: int, digest: int, position: FloatArray, now: float, age: float = 0.0) -> None:
        """Note an image by its stamp, a digest of its content and the end effector's position (3,) m.

        ``age``: seconds since it was taken, by its stamp; a camera that lags is as good as none.
        """
        self._taken = now - max(age, 0.0)
        stuck_stamp, same = stamp_ns <= self._stamp_ns, digest == self._digest
        if not (stuck_stamp or same) or self._first is None or self._previous is None:
            self._first, self._frozen = position, ""
        elif float(np.linalg.norm(self._previous - self._first)) > VISIBLE_MOTION:
            self._frozen = "stamp does not advance" if stuck_stamp else "content does not change"
        self._previous = position
        self._stamp_ns, self._digest = max(stamp_ns, self._stamp_ns), digest

    def check(self, since: float, now: float) -> Fault | None:
        """Return what is wrong with the images, watched from ``since`` on."""
        if self._frozen:
            return Fault(Reason.IMAGE_FROZEN, f"the arm moves, but the image's {self._frozen}")
        if now - max(self._taken, since) > self._timeout:
            message = (
                f"no image of the last {self._timeout:g} s; does the camera run, are the clocks in step?"
            )
            return Fault(Reason.IMAGE_STALE, message)
        return None
