"""The declared appearance of objects, read from ``appearance.yaml``: what binds names to image regions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

HUE_SLACK, SATURATION_SLACK, VALUE_SHARE = 5, 40, 0.5  # by how much ``relaxed`` widens a range
GREY_SATURATION, GREY_SLACK, GREY_VALUE_SHARE = 80, 20, 0.7  # the same for white things: grey is everywhere


@dataclass(frozen=True)
class ColourRange:
    """An inclusive HSV range in OpenCV's uint8 scale: hue 0..179, saturation and value 0..255."""

    lower: tuple[int, int, int]
    upper: tuple[int, int, int]


@dataclass(frozen=True)
class Appearance:
    """How one object looks: identifying colours, colours of attached parts, longest side in metres."""

    name: str
    body: tuple[ColourRange, ...]
    parts: tuple[ColourRange, ...]
    size: float


@dataclass(frozen=True)
class GripperShape:
    """Finger joint closed and open (m); spheres of palm and one finger, (n, 4) x, y, z, radius (m).

    In the end effector's frame; y of a finger's spheres is that from the finger joint's position.
    """

    closed: float
    open: float
    palm: np.ndarray
    fingers: np.ndarray


@cache
def _document() -> dict[str, Any]:
    text = files("grape_preference").joinpath("appearance.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@cache
def appearances() -> dict[str, Appearance]:
    """Return every declared object by name."""
    document = _document()
    rows = {**document["objects"], **document["further_objects"]}
    return {
        name: read_appearance(name, {**rows.get(row.get("like"), {}), **row}) for name, row in rows.items()
    }


def scene_objects() -> tuple[str, ...]:
    """Return the objects of the shipped scene: what to look for where nobody says what stands there."""
    return tuple(_document()["objects"])


def relaxed(item: Appearance) -> Appearance:
    """Return ``item`` with wider colour ranges, for a scene in other light than the declared one."""
    return replace(item, body=tuple(map(_wider, item.body)), parts=tuple(map(_wider, item.parts)))


def workspace() -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper corner (3,), metres, base frame, of the box to look for objects in."""
    box = _document()["workspace"]
    return np.array(box["lower"]), np.array(box["upper"])


def gripper_opening(joint_metres: np.ndarray) -> np.ndarray:
    """Convert the finger joint (metres) to an opening of 0 closed .. 1 open."""
    shape = gripper_shape()
    opening = (joint_metres - shape.closed) / (shape.open - shape.closed)
    return np.clip(opening, 0.0, 1.0)


@cache
def gripper_shape() -> GripperShape:
    """Return the gripper's measures; do not change its arrays."""
    row = _document()["gripper"]
    return GripperShape(row["closed"], row["open"], np.array(row["palm"]), np.array(row["fingers"]))


def gripper_joint() -> str:
    """Return the name of the gripper's joint in the joint states."""
    return str(_document()["gripper"]["joint"])


def read_appearance(name: str, row: dict[str, Any]) -> Appearance:
    """Return an object's looks from a row like those of appearance.yaml."""
    return Appearance(name, _ranges(row["body"]), _ranges(row.get("parts", [])), float(row["size"]))


def _wider(colour: ColourRange) -> ColourRange:
    hue, saturation, value = colour.lower
    top_hue, top_saturation, _ = colour.upper
    grey = top_saturation < GREY_SATURATION
    slack, share = (GREY_SLACK, GREY_VALUE_SHARE) if grey else (SATURATION_SLACK, VALUE_SHARE)
    return ColourRange(
        (max(0, hue - HUE_SLACK), max(0, saturation - slack), int(value * share)),
        (min(179, top_hue + HUE_SLACK), min(255, top_saturation + slack), 255),
    )


def _ranges(items: list[dict[str, list[int]]]) -> tuple[ColourRange, ...]:
    return tuple(ColourRange(_triple(item["lower"]), _triple(item["upper"])) for item in items)


def _triple(values: list[int]) -> tuple[int, int, int]:
    hue, saturation, value = values
    return hue, saturation, value
