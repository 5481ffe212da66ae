"""From a checked suite file to a ``Suite``: names resolved, defaults filled in, what cannot work refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.spatial.transform import Rotation

from grape_sim.objects import (
    ALONG,
    UPRIGHT,
    Grip,
    ObjectShape,
    Part,
    Quaternion,
    Surface,
    Vector,
    footprint_of,
    rest_height_of,
)
from grape_sim.suite_file import read_document
from grape_sim.suite_types import Success, Suite, SuiteError, Task, Texture

GRIP_HEIGHT = 0.002  # m above the origin
MAX_GRIP = 0.024  # m, half width
AIM = 0.042  # m
# What the arm, the table and the camera are called in the compiled model.
RESERVED = {
    *("table", "arm", "left_finger", "right_finger", "gripper", "world"),
    *("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"),
}
SIZES = {"box": 3, "ellipsoid": 3, "cylinder": 2, "capsule": 2, "sphere": 1}
DEFAULT_MAX_STEPS = 50
DEFAULT_SPLITS = ("train", "collect", "eval")


class SuiteParser:
    """Builds one suite; ``load`` finds the suites that it includes."""

    def __init__(self, path: Path, source: str, load: Callable[[str], Suite]) -> None:
        self.path, self.document = path, read_document(path)
        self.colours: dict[str, Vector] = {}
        self.textures: dict[str, Texture] = {}
        self.objects: dict[str, ObjectShape] = {}
        self.tasks: dict[str, Task] = {}
        self._source = source
        self._included = [load(name) for name in self.document.get("include", [])]

    def parse(self) -> Suite:
        """Return the suite.

        Raises:
            SuiteError: a name is unknown or given twice, or something cannot work.
        """
        from grape_sim.suite_cells import parse_cell

        for suite in self._included:
            self.colours |= suite.colours
            self.textures |= suite.textures
            self.objects |= suite.objects
            self.tasks |= suite.tasks
        for section, parse in (
            ("colours", self._colour),
            ("textures", self._texture),
            ("objects", self._object),
            ("tasks", self._task),
        ):
            known: dict[str, Any] = getattr(self, section)
            for name, content in self.document.get(section, {}).items():
                if name in known:
                    self.refuse(
                        f"{section}.{name}", "an included suite has this name too", "Choose another name"
                    )
                known[name] = parse(name, content)
        document = self.document
        return Suite(
            name=document["suite"],
            description=document["description"],
            source=self._source,
            content_hash=self._hash(),
            max_steps=document.get("max_steps", DEFAULT_MAX_STEPS),
            splits=tuple(document.get("splits", DEFAULT_SPLITS)),
            colours=self.colours,
            textures=self.textures,
            objects=self.objects,
            tasks=self.tasks,
            cells={name: parse_cell(self, name, content) for name, content in document["cells"].items()},
        )

    def refuse(self, where: str, what: str, remedy: str) -> None:
        """Raise the error for a place in this file."""
        raise SuiteError(f"{self.path}: {where}", what, remedy)

    def find(self, section: str, name: str, where: str) -> Any:
        """Return the object, task, colour or texture called ``name``; refuse an unknown one."""
        known = getattr(self, section)
        if name not in known:
            self.refuse(where, f"unknown name {name!r} in {section}", f"Known: {', '.join(known) or 'none'}")
        return known[name]

    def _hash(self) -> str:
        """Return a hash of everything that the suite's meaning depends on."""
        parts = [self.document, [suite.content_hash for suite in self._included]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _colour(self, name: str, content: list[float]) -> Vector:
        return _vector(content)

    def _colour_of(self, content: list[float] | str, where: str) -> Vector:
        if isinstance(content, str):
            colour: Vector = self.find("colours", content, where)
            return colour
        if len(content) != 3 or not all(isinstance(v, int | float) and 0 <= v <= 1 for v in content):
            self.refuse(where, f"{content} is not a colour", "Give red, green and blue from 0 to 1")
        return _vector(content)

    def _texture(self, name: str, content: dict[str, Any]) -> Texture:
        where = f"textures.{name}.colours"
        first, second = (self._colour_of(colour, where) for colour in content["colours"])
        return Texture(name, content["pattern"], (first, second), float(content.get("scale", 1.0)))

    def _object(self, name: str, content: dict[str, Any]) -> ObjectShape:
        where = f"objects.{name}"
        if name in RESERVED:
            self.refuse(where, "the robot or the table is called so", "Choose another name")
        if "like" in content:
            factors = _vector(content.get("scale", [1, 1, 1]))
            if content["like"] not in self.objects:
                what = f"no object {content['like']!r} is described above this one"
                self.refuse(f"{where}.like", what, f"Known here: {', '.join(self.objects) or 'none'}")
            return scaled(self.objects[content["like"]], name, factors)
        parts = tuple(self._part(part, f"{where}.parts[{i}]") for i, part in enumerate(content["parts"]))
        if all(part.mass is None for part in parts):
            self.refuse(f"{where}.parts", "nothing is solid", "Give at least one part with solid and mass")
        footprint = content.get("footprint") or footprint_of(parts)
        rest_height = float(content.get("rest_height", rest_height_of(parts)))
        return ObjectShape(
            name=name,
            parts=parts,
            footprint=(float(footprint[0]), float(footprint[1])),
            rest_height=rest_height,
            shade=float(content.get("shade", 0.0)),
            friction=float(content.get("friction", 1.0)),
            grip=_grip(content["grip"], parts) if "grip" in content else None,
            surface=self._surface(content["surface"], parts, rest_height) if "surface" in content else None,
        )

    def _part(self, content: dict[str, Any], where: str) -> Part:
        kind = content.get("solid") or content["shape"]
        size = tuple(float(value) for value in content["size"])
        if len(size) != SIZES[kind]:
            self.refuse(f"{where}.size", f"a {kind} has {SIZES[kind]} numbers, not {len(size)}", "Correct it")
        if "texture" in content:
            self.find("textures", content["texture"], f"{where}.texture")
        colour = content.get("colour")
        return Part(
            kind=kind,
            size=size,
            position=_vector(content.get("at", [0, 0, 0])),
            quaternion=_turn(content),
            colour=None if colour is None else self._colour_of(colour, f"{where}.colour"),
            mass=content.get("mass"),
            texture=content.get("texture"),
        )

    def _surface(self, content: dict[str, Any], parts: tuple[Part, ...], rest_height: float) -> Surface:
        half_x, half_y = content.get("half") or footprint_of(parts)
        solid = [part for part in parts if part.mass is not None]
        top = rest_height + max(part.position[2] + float(part.half_extents()[2]) for part in solid)
        return Surface(
            height=float(content.get("height", top)),
            half=(float(half_x), float(half_y)),
            round=content.get("round", False),
            aim=float(content.get("aim", AIM)),
            rim=content.get("rim"),
            release=float(content.get("release", 0.0)),
        )

    def _task(self, name: str, content: dict[str, Any]) -> Task:
        where = f"tasks.{name}"
        kind, details = next(iter(content["success"].items()))
        source = self.find("objects", content["source"], f"{where}.source")
        if kind == "knocked_over":
            if "target" in content:
                self.refuse(f"{where}.target", "what is knocked over needs none", "Leave it out")
            target = source
        elif "target" not in content:
            self.refuse(where, f"{kind} needs a target", "Name the object that source is brought to")
        else:
            target = self.find("objects", content["target"], f"{where}.target")
        if kind == "pushed" and target is source:
            self.refuse(f"{where}.target", f"{source.name} cannot be pushed to itself", "Name another object")
        if kind == "placed" and source.grip is None:
            self.refuse(f"{where}.source", f"{source.name} has no grip", "Give the object a grip")
        if kind == "placed" and source.grip.half_width > MAX_GRIP + 1e-9:
            what = f"{source.name} is {2000 * source.grip.half_width:.0f} mm wide between the fingers"
            self.refuse(f"{where}.source", what, f"The gripper takes up to {2000 * MAX_GRIP:.0f} mm")
        if kind == "placed" and (target.surface is None or target is source):
            self.refuse(
                f"{where}.target", f"nothing can be put on {target.name}", "Give the object a surface"
            )
        success = Success(
            kind, float(details.get("distance", 0.0)), math.radians(details.get("tilt_degrees", 60.0))
        )
        texts = tuple(content["instructions"])
        return Task(name, source.name, target.name, texts, success, source, target)


def scaled(base: ObjectShape, name: str, factors: Vector) -> ObjectShape:
    """Return ``base`` scaled along its own axes, under another name; its mass goes with its volume."""
    x, y, z = factors
    surface = base.surface and Surface(
        height=base.surface.height * z,
        half=(base.surface.half[0] * x, base.surface.half[1] * y),
        round=base.surface.round,
        aim=base.surface.aim * min(x, y),
        rim=None if base.surface.rim is None else base.surface.rim * z,
        release=base.surface.release * z,
    )
    return ObjectShape(
        name=name,
        parts=tuple(part.scaled(factors) for part in base.parts),
        footprint=(base.footprint[0] * x, base.footprint[1] * y),
        rest_height=base.rest_height * z,
        shade=base.shade * x,
        friction=base.friction,
        grip=base.grip and Grip(base.grip.half_width * y, base.grip.height * z),
        surface=surface,
    )


def _grip(content: dict[str, float], parts: tuple[Part, ...]) -> Grip:
    solid = [part for part in parts if part.mass is not None]
    width = max(abs(part.position[1]) + float(part.half_extents()[1]) for part in solid)
    return Grip(float(content.get("half_width", width)), float(content.get("height", GRIP_HEIGHT)))


def _vector(content: list[float]) -> Vector:
    x, y, z = (float(value) for value in content)
    return x, y, z


def _turn(content: dict[str, Any]) -> Quaternion:
    if "turn" in content:
        x, y, z, w = (float(v) for v in Rotation.from_euler("xyz", content["turn"], degrees=True).as_quat())
        return w, x, y, z
    return ALONG[content["along"]] if "along" in content else UPRIGHT
