"""What the constraint language is made of: points, units, functions, variables, the evaluated episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grape_preference.tracks import KeypointTracks


@dataclass(frozen=True)
class Point:
    """A tracked point: positions (T, 3) and full box size (3,), metres, base frame."""

    positions: np.ndarray
    extent: np.ndarray


@dataclass
class Context:
    """One episode being evaluated; "since the stage began" refers to the frame ``stage_start``."""

    tracks: KeypointTracks
    stage_start: int = 0
    cache: dict[object, np.ndarray] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)

    def point(self, name: str) -> Point:
        """Return a keypoint or ``end_effector``; KeyError when it is not tracked."""
        if name not in self.points:
            self.points[name] = self._point(name)
        return self.points[name]

    def _point(self, name: str) -> Point:
        if name == "end_effector":
            return Point(self.tracks.end_effector_positions, np.zeros(3))
        index = self.tracks.index(name)
        return Point(self.tracks.positions[:, index], self.tracks.extents[index])

    def once(self, key: object, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return ``compute()``, computed once per episode for ``key``."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]


@dataclass(frozen=True)
class Unit:
    """A physical unit as powers of metre, radian and second."""

    metre: int = 0
    radian: int = 0
    second: int = 0

    def __mul__(self, other: Unit) -> Unit:
        return Unit(self.metre + other.metre, self.radian + other.radian, self.second + other.second)

    def __truediv__(self, other: Unit) -> Unit:
        return Unit(self.metre - other.metre, self.radian - other.radian, self.second - other.second)

    def __str__(self) -> str:
        powers = (("m", self.metre), ("rad", self.radian), ("s", self.second))
        over = "*".join(_power(name, power) for name, power in powers if power > 0)
        under = "*".join(_power(name, -power) for name, power in powers if power < 0)
        return (over or "1") + (f"/{under}" if under else "")


def _power(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"


ONE, METRE, RADIAN, SECOND = Unit(), Unit(metre=1), Unit(radian=1), Unit(second=1)
BOOLEAN, POINT, SAME = (
    "boolean",
    "point",
    "same",
)  # SAME: a number of any unit, shared by arguments and result


@dataclass(frozen=True)
class Function:
    """One callable: argument kinds, result kind (a Unit, BOOLEAN or SAME), documentation, implementation."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    result: Unit | str
    doc: str
    evaluate: Callable[..., np.ndarray]
    variadic: bool = False
    since_stage_start: bool = False


@dataclass(frozen=True)
class Variable:
    """A named quantity without arguments."""

    name: str
    unit: Unit
    doc: str
    evaluate: Callable[[Context], np.ndarray]
