"""The eight objects of the tasks: what they look like, how they collide, how large they are.

A visible shape is composed of coloured primitives; the colliding shape is one or a few boxes or a cylinder,
because box contacts grip without rolling. Sizes are half extents in metres in the object's own frame (x along
its length).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]

_BOX = mujoco.mjtGeom.mjGEOM_BOX
_CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER
_ELLIPSOID = mujoco.mjtGeom.mjGEOM_ELLIPSOID
_CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE
_ALONG_X = (0.7071067811865476, 0.0, 0.7071067811865476, 0.0)  # wxyz: turns a cylinder's z axis to x

ORANGE, LEAF, WHITE, RIM = (1.0, 0.42, 0.02), (0.1, 0.6, 0.1), (0.96, 0.96, 0.96), (0.75, 0.78, 0.85)
PURPLE, TAN, TAN_DARK = (0.42, 0.08, 0.55), (0.72, 0.5, 0.2), (0.5, 0.32, 0.12)
GREEN, YELLOW, WOOD, BLUE, LIGHT_BLUE = (
    (0.05, 0.72, 0.2),
    (0.98, 0.85, 0.05),
    (0.45, 0.17, 0.07),
    (0.1, 0.25, 0.85),
    (0.55, 0.7, 1.0),
)


@dataclass(frozen=True)
class ObjectShape:
    """Geometry that the layout, the expert and the judge need.

    footprint: half extents (x, y) on the table at yaw 0. rest_height: height of the body origin when it rests
    on the table. support_height: height above the table at which something put on or in it comes to rest.
    """

    footprint: tuple[float, float]
    rest_height: float
    support_height: float
    build: Callable[[mujoco.MjsBody], None]


def _shape(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    size: Vector,
    at: Vector,
    colour: Colour,
    quat: tuple[float, ...] = (1, 0, 0, 0),
) -> None:
    """Add a visible primitive that neither collides nor weighs anything."""
    body.add_geom(
        type=kind,
        size=size,
        pos=at,
        quat=quat,
        rgba=[*colour, 1.0],
        contype=0,
        conaffinity=0,
        group=1,
        mass=0,
    )


def _solid(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    size: Vector,
    at: Vector,
    mass: float,
    colour: Colour | None = None,
) -> None:
    """Add a colliding primitive; it is visible only if it has a colour."""
    body.add_geom(
        type=kind,
        size=size,
        pos=at,
        mass=mass,
        rgba=[*(colour or (0.5, 0.5, 0.5)), 1.0],
        group=1 if colour else 3,
        friction=[1.0, 0.02, 0.001],
        condim=4,
        solref=[0.008, 1.0],
    )


def _carrot(body: mujoco.MjsBody) -> None:
    _solid(body, _BOX, (0.036, 0.012, 0.012), (0, 0, 0), 0.03)
    for radius, x, half in (
        (0.0145, 0.018, 0.016),
        (0.0125, -0.008, 0.012),
        (0.0095, -0.028, 0.010),
        (0.006, -0.042, 0.005),
    ):
        _shape(body, _CYLINDER, (radius, half, 0), (x, 0, 0), ORANGE, _ALONG_X)
    for y in (-0.007, 0.0, 0.007):
        _shape(body, _ELLIPSOID, (0.013, 0.005, 0.005), (0.044, y, 0.003), LEAF)


def _eggplant(body: mujoco.MjsBody) -> None:
    _solid(body, _BOX, (0.030, 0.0135, 0.0135), (0, 0, 0), 0.04)
    _shape(body, _ELLIPSOID, (0.027, 0.0165, 0.0165), (-0.012, 0, 0), PURPLE)
    _shape(body, _ELLIPSOID, (0.030, 0.0135, 0.0135), (0.008, 0, 0), PURPLE)
    _shape(body, _ELLIPSOID, (0.008, 0.0125, 0.0125), (0.032, 0, 0), LEAF)
    _shape(body, _CYLINDER, (0.0035, 0.007, 0), (0.042, 0, 0), LEAF, _ALONG_X)


def _plate(body: mujoco.MjsBody) -> None:
    _solid(body, _CYLINDER, (0.056, 0.004, 0), (0, 0, 0.004), 0.25, WHITE)
    _shape(body, _CYLINDER, (0.044, 0.004, 0), (0, 0, 0.005), RIM)
    _shape(body, _CYLINDER, (0.040, 0.004, 0), (0, 0, 0.006), WHITE)


def _basket(body: mujoco.MjsBody) -> None:
    half_x, half_y, wall, top = 0.062, 0.054, 0.004, 0.030
    _solid(body, _BOX, (half_x, half_y, 0.003), (0, 0, 0.003), 0.15, TAN_DARK)
    for sign in (-1.0, 1.0):
        _solid(body, _BOX, (wall, half_y, top / 2), (sign * (half_x - wall), 0, top / 2), 0.05, TAN)
        _solid(body, _BOX, (half_x, wall, top / 2), (0, sign * (half_y - wall), top / 2), 0.05, TAN)
        for z in (0.011, 0.021):
            _shape(body, _BOX, (wall, half_y, 0.0015), (sign * (half_x - wall + 0.0005), 0, z), TAN_DARK)


def _cube(half: float, colour: Colour, mass: float) -> Callable[[mujoco.MjsBody], None]:
    return lambda body: _solid(body, _BOX, (half, half, half), (0, 0, 0), mass, colour)


def _spoon(body: mujoco.MjsBody) -> None:
    _solid(body, _BOX, (0.040, 0.009, 0.008), (0.0, 0, 0), 0.02, WOOD)
    _solid(body, _BOX, (0.013, 0.013, 0.006), (-0.050, 0, -0.002), 0.01)
    _shape(body, _ELLIPSOID, (0.022, 0.017, 0.008), (-0.052, 0, 0), WOOD)
    _shape(body, _ELLIPSOID, (0.016, 0.012, 0.0030), (-0.052, 0, 0.006), tuple(np.multiply(WOOD, 0.6)))


def _towel(body: mujoco.MjsBody) -> None:
    _solid(body, _BOX, (0.056, 0.050, 0.0025), (0, 0, 0.0025), 0.15, BLUE)
    for x in (-0.042, 0.042):
        _shape(body, _BOX, (0.006, 0.050, 0.0025), (x, 0, 0.0028), LIGHT_BLUE)


OBJECTS: dict[str, ObjectShape] = {
    "carrot": ObjectShape((0.052, 0.015), 0.012, 0.024, _carrot),
    "plate": ObjectShape((0.056, 0.056), 0.0, 0.008, _plate),
    "eggplant": ObjectShape((0.045, 0.017), 0.0135, 0.027, _eggplant),
    "basket": ObjectShape((0.062, 0.054), 0.0, 0.006, _basket),
    "green_cube": ObjectShape((0.015, 0.015), 0.015, 0.030, _cube(0.015, GREEN, 0.03)),
    "yellow_cube": ObjectShape((0.0175, 0.0175), 0.0175, 0.035, _cube(0.0175, YELLOW, 0.08)),
    "spoon": ObjectShape((0.072, 0.017), 0.008, 0.016, _spoon),
    "towel": ObjectShape((0.056, 0.050), 0.0, 0.005, _towel),
}
