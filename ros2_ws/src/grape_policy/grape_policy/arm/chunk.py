"""Action chunks: several actions from one image, and how the arm goes over from one chunk to the next.

The actions of a chunk are carried out one after the other, each spread over the whole period. A new chunk
waits for the end of the present action, so that every action begun is carried out whole, and starts from that
action's target. From there the arm is led from the old way to the new one by a linear cross-fade (the blend
of two overlapping predictions in Zhao et al. 2023, "Learning fine-grained bimanual manipulation", with
weights linear in time)::

    pose(t) = (1 - w) old(t) + w new(t),   w = min(1, (t - start) / (k period)),   k = min(2, n)

where ``old`` is what the old chunk would have done next, ``n`` the number of actions of the new chunk, and
rotations are weighted along the shortest turn. Both ways begin in the same pose, so position and velocity
are continuous at the start; at the end the joint limits smooth what is left. Where the arm stood, there is
nothing to fade out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .actions import ACTION_SIZE
from .description import FloatArray
from .kinematics import Pose, rotated, rotation_between
from .safety import ActionRefused, Reason

MAX_ACTIONS = 64
MIN_PERIOD, MAX_PERIOD = 0.02, 1.0  # s
FADE_ACTIONS = 2


@dataclass(frozen=True)
class Segment:
    """A straight way from one pose to another, starting at ``start_time`` (s) and taking ``seconds``."""

    start: Pose
    translation: FloatArray
    rotation: FloatArray
    start_time: float
    seconds: float

    def fraction(self, now: float) -> float:
        """Return which part of the way is done at ``now`` (s), 0 to 1."""
        return min(max((now - self.start_time) / self.seconds, 0.0), 1.0)

    def at(self, now: float) -> Pose:
        """Return the pose at ``now`` (s)."""
        fraction = self.fraction(now)
        position = self.start.position + fraction * self.translation
        return Pose(position, rotated(fraction * self.rotation, self.start.quaternion))


def segment_between(start: Pose, end: Pose, start_time: float, seconds: float) -> Segment:
    """Return the straight way from ``start`` to ``end``."""
    turn = rotation_between(start.quaternion, end.quaternion)
    return Segment(start, end.position - start.position, turn, start_time, seconds)


@dataclass(frozen=True)
class Fade:
    """What is left of an old way, segment after segment, and for how long (s) it still counts."""

    old: tuple[Segment, ...]
    start_time: float
    seconds: float

    def blended(self, new: Pose, now: float) -> Pose:
        """Return the pose at ``now`` between the old way and ``new``."""
        weight = min(max((now - self.start_time) / self.seconds, 0.0), 1.0)
        old = next((segment for segment in self.old if segment.fraction(now) < 1.0), self.old[-1]).at(now)
        position = old.position + weight * (new.position - old.position)
        turn = weight * rotation_between(old.quaternion, new.quaternion)
        return Pose(position, rotated(turn, old.quaternion))

    def over(self, now: float) -> bool:
        """Whether only the new way counts."""
        return now >= self.start_time + self.seconds


@dataclass(frozen=True)
class Chunk:
    """Actions (n, 7), one every ``period`` (s); ``name`` is the caller's, to know it by when it has begun."""

    actions: FloatArray
    period: float
    name: object = None

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return len(self.actions) * self.period

    @property
    def fade_seconds(self) -> float:
        """How long the way before it still counts."""
        return min(FADE_ACTIONS, len(self.actions)) * self.period


@dataclass(frozen=True)
class Progress:
    """A chunk under way: the next ``row`` begins at ``due`` (s)."""

    chunk: Chunk
    row: int
    due: float

    @property
    def over(self) -> bool:
        """Whether its last action has begun."""
        return self.row >= len(self.chunk.actions)

    def next(self) -> Progress:
        """Return the progress after the next action has begun."""
        return replace(self, row=self.row + 1, due=self.due + self.chunk.period)


@dataclass(frozen=True)
class Begun:
    """An action of a chunk that began; not ``followed`` when its target was refused: the arm holds."""

    chunk: Chunk
    row: int
    followed: bool


def make_chunk(actions: ArrayLike, period: float, name: object = None) -> Chunk:
    """Return a chunk of actions (n, 7) or (n * 7,) in row-major order.

    Raises:
        ActionRefused: not 1 to 64 actions of seven numbers, or a period out of bounds. The numbers
            themselves are checked by the controller.
    """
    try:
        values = np.array(actions, dtype=np.float64)
        rows = values.reshape(-1, ACTION_SIZE)
    except (TypeError, ValueError) as error:
        raise ActionRefused(Reason.INVALID_ACTION, f"chunk is not rows of {ACTION_SIZE}: {error}") from error
    if not 1 <= len(rows) <= MAX_ACTIONS:
        message = f"chunk of {len(rows)} actions; allowed are 1 to {MAX_ACTIONS}"
        raise ActionRefused(Reason.INVALID_ACTION, message)
    if not MIN_PERIOD <= period <= MAX_PERIOD:
        message = f"chunk period of {period:g} s; allowed are {MIN_PERIOD:g} to {MAX_PERIOD:g} s"
        raise ActionRefused(Reason.INVALID_ACTION, message)
    return Chunk(rows, float(period), name)
