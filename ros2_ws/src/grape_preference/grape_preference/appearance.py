"""The declared appearance of objects, read from ``appearance.yaml``: what binds names to image regions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml


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


@cache
def _document() -> dict[str, Any]:
    text = files("grape_preference").joinpath("appearance.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@cache
def appearances() -> dict[str, Appearance]:
    """Return every declared object by name."""
    return {
        name: Appearance(
            name, _ranges(fields["body"]), _ranges(fields.get("parts", [])), float(fields["size"])
        )
        for name, fields in _document()["objects"].items()
    }


def workspace() -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper corner (3,), metres, base frame, of the box to look for objects in."""
    box = _document()["workspace"]
    return np.array(box["lower"]), np.array(box["upper"])


def gripper_opening(joint_metres: np.ndarray) -> np.ndarray:
    """Convert the finger joint (metres) to an opening of 0 closed .. 1 open."""
    fields = _document()["gripper"]
    opening = (joint_metres - fields["closed"]) / (fields["open"] - fields["closed"])
    return np.clip(opening, 0.0, 1.0)


def gripper_joint() -> str:
    """Return the name of the gripper's joint in the joint states."""
    return str(_document()["gripper"]["joint"])


def _ranges(items: list[dict[str, list[int]]]) -> tuple[ColourRange, ...]:
    return tuple(ColourRange(_triple(item["lower"]), _triple(item["upper"])) for item in items)


def _triple(values: list[int]) -> tuple[int, int, int]:
    hue, saturation, value = values
    return hue, saturation, value
