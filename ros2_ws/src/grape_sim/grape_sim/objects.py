"""What an object is: composed primitives, and the geometry that layout, expert and judge need.

Plain data, read from a suite's YAML. A visible shape is composed of coloured primitives; the colliding
("solid") ones are mostly boxes, because box contacts grip without rolling. Sizes are half extents in metres
in the object's own frame (x along its length).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)  # wxyz, as MuJoCo wants them
_HALF_TURN = 0.7071067811865476
ALONG: dict[str, Quaternion] = {  # turns a primitive's z axis to the named axis
    "x": (_HALF_TURN, 0.0, _HALF_TURN, 0.0),
    "y": (_HALF_TURN, -_HALF_TURN, 0.0, 0.0),
    "z": UPRIGHT,
}


@dataclass(frozen=True)
class Part:
    """One primitive: box, cylinder, capsule, ellipsoid or sphere at ``position`` with ``quaternion`` wxyz.

    size: half extents of a box or ellipsoid; radius and half length of a cylinder or capsule; radius of a
    sphere. mass (kg) makes it solid: without one it is only seen. colour: red, green, blue in 0 .. 1; a solid
    without a colour is not seen. texture: name of one of the suite's textures, drawn over the colour.
    """

    kind: str
    size: tuple[float, ...]
    position: Vector
    quaternion: Quaternion
    colour: Vector | None
    mass: float | None
    texture: str | None = None

    def scaled(self, factors: Vector) -> Part:
        """Return the part of an object that is scaled by ``factors`` along its own x, y and z axes."""
        volume = factors[0] * factors[1] * factors[2]
        x, y, z = (value * factor for value, factor in zip(self.position, factors, strict=True))
        mass = None if self.mass is None else self.mass * volume
        size = _scaled_size(self, factors)
        return Part(self.kind, size, (x, y, z), self.quaternion, self.colour, mass, self.texture)

    def half_extents(self) -> np.ndarray:
        """Return half the sides (3,) of the box around the part, along the object's axes, in metres."""
        size = np.array(self.size)
        if self.kind == "sphere":
            return np.repeat(size[:1], 3)
        w, x, y, z = self.quaternion
        turn = Rotation.from_quat([x, y, z, w]).as_matrix()
        if self.kind == "ellipsoid":
            return np.asarray(np.sqrt((turn**2) @ size**2))
        if self.kind == "box":
            return np.asarray(np.abs(turn) @ size)
        axis, radius, half = np.abs(turn[:, 2]), size[0], size[1]
        across = 1.0 if self.kind == "capsule" else np.sqrt(np.maximum(0.0, 1.0 - axis**2))
        return np.asarray(axis * half + across * radius)


@dataclass(frozen=True)
class Grip:
    """How a gripper that points down holds an object: closing along y, ``height`` above the body's origin.

    half_width: half the object's width between the fingers, m.
    """

    half_width: float
    height: float


@dataclass(frozen=True)
class Surface:
    """Where something put on or in an object comes to rest.

    height: of the resting surface above the table (m). half: half extents (x, y) of the area within which the
    centre of what is placed must lie; with ``round`` the first is a radius. aim: how far (m) from the centre
    the expert may let go. rim: height of a container's rim above its origin, below which everything counts;
    None for a flat surface. release: least height (m) of the source's centre above the origin at which the
    expert lets go, so that the fingers stay above the rim.
    """

    height: float
    half: tuple[float, float]
    round: bool
    aim: float
    rim: float | None
    release: float


@dataclass(frozen=True)
class ObjectShape:
    """One object.

    footprint: half extents (x, y) on the table at yaw 0. rest_height: height of the body's origin when it
    rests on the table. shade: m along x that it hides on either side. grip: None if it cannot be grasped.
    surface: None if nothing can be put on it.
    """

    name: str
    parts: tuple[Part, ...]
    footprint: tuple[float, float]
    rest_height: float
    shade: float
    friction: float
    grip: Grip | None
    surface: Surface | None

    @property
    def top(self) -> float:
        """Height (m) of the highest point above the table when the object rests on it."""
        return self.rest_height + _highest(self.parts)

    @property
    def solid_top(self) -> float:
        """Height (m) of its highest solid point."""
        return self.rest_height + _highest(part for part in self.parts if part.mass is not None)

    @property
    def radius(self) -> float:
        """Radius (m) of the circle around the footprint."""
        return math.hypot(*self.footprint)


def _highest(parts: Iterable[Part]) -> float:
    return max(part.position[2] + float(part.half_extents()[2]) for part in parts)


def footprint_of(parts: Iterable[Part]) -> tuple[float, float]:
    """Return the half extents (x, y) of a box around the origin that holds all parts."""
    reach = np.max([np.abs(part.position) + part.half_extents() for part in parts], axis=0)
    return float(reach[0]), float(reach[1])


def rest_height_of(parts: Iterable[Part]) -> float:
    """Return how far the solid parts reach below the origin (m)."""
    return float(-min(part.position[2] - part.half_extents()[2] for part in parts if part.mass is not None))


def _scaled_size(part: Part, factors: Vector) -> tuple[float, ...]:
    """Scale along the object's axes; exact for parts that lie along them."""
    w, x, y, z = part.quaternion
    turn = np.abs(Rotation.from_quat([x, y, z, w]).as_matrix())
    along = turn.T @ np.array(factors)  # factors along the part's own axes
    if part.kind in ("box", "ellipsoid"):
        return tuple(float(value) for value in np.array(part.size) * along)
    if part.kind == "sphere":
        return (part.size[0] * float(np.cbrt(np.prod(along))),)
    return part.size[0] * float(np.sqrt(along[0] * along[1])), part.size[1] * float(along[2])
