"""Cells of a suite: the suite's defaults, the cell's own words, and checks that the cell can be laid out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from grape_sim.suite_types import Cell, Collision, Extra, Layout, Task, Visual, Zone

if TYPE_CHECKING:
    from grape_sim.objects import ObjectShape
    from grape_sim.suite_parsing import SuiteParser

MAX_OBJECTS = 16  # parking places behind the arm
DEFAULTS: dict[str, Any] = {
    "layout": {
        "source": {"x": [0.23, 0.39], "y": [-0.15, 0.15], "yaw_degrees": 25.0},
        "target": {"x": [0.23, 0.39], "y": [-0.13, 0.13], "yaw_degrees": 10.0},
        "reach": 0.41,
        "grip_room": [0.018, 0.043],
        "margin": 0.006,
        "apart": 0.0,
    },
    "collision": {"kind": "strangers", "hard_force": 20.0},
}


def parse_cell(parser: SuiteParser, name: str, content: dict[str, Any]) -> Cell:
    """Return the cell called ``name``, defaults filled in; refuses what cannot be laid out."""
    where = f"cells.{name}"
    merged = _merge(_merge(DEFAULTS, parser.document.get("defaults", {})), content)
    tasks = _tasks(parser, merged["tasks"], f"{where}.tasks")
    others = _tasks(parser, merged.get("other_tasks", []), f"{where}.other_tasks")
    distractors, obstacle = (
        _extra(parser, merged.get(key), f"{where}.{key}") for key in ("distractors", "obstacle")
    )
    shapes = _shapes(parser, (*tasks, *others), (distractors, obstacle), where)
    visual = merged.get("visual")
    for table in (visual or {}).get("tables", []):
        parser.find("textures", table, f"{where}.visual.tables")
    wanted = {*(visual or {}).get("tables", []), *(p.texture for s in shapes for p in s.parts if p.texture)}
    return Cell(
        name=name,
        description=merged.get("description", ""),
        tasks=tasks,
        other_tasks=others,
        instructions=_instructions(parser, merged.get("instructions", {}), tasks, f"{where}.instructions"),
        layout=_layout(parser, merged["layout"], f"{where}.layout"),
        distractors=distractors,
        obstacle=obstacle,
        visual=None if visual is None else _visual(parser, visual, f"{where}.visual"),
        collision=Collision(merged["collision"]["kind"], float(merged["collision"]["hard_force"])),
        shapes=shapes,
        textures=tuple(texture for key, texture in parser.textures.items() if key in wanted),
    )


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``own``; layout and zones are merged, all else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        nested = key in ("layout", "collision", "source", "target") and isinstance(value, dict)
        merged[key] = _merge(merged.get(key, {}), value) if nested else value
    return merged


def _tasks(parser: SuiteParser, names: list[str], where: str) -> tuple[Task, ...]:
    return tuple(parser.find("tasks", name, where) for name in names)


def _extra(parser: SuiteParser, content: dict[str, Any] | None, where: str) -> Extra | None:
    if content is None:
        return None
    objects = tuple(parser.find("objects", name, f"{where}.objects") for name in content["objects"])
    count = content.get("count", 1)
    if count > len(objects):
        parser.refuse(f"{where}.count", f"{count} of {len(objects)} objects", "Name more objects")
    return Extra(objects, count)


def _shapes(
    parser: SuiteParser, tasks: tuple[Task, ...], extras: tuple[Extra | None, ...], where: str
) -> tuple[ObjectShape, ...]:
    in_tasks = {name for task in tasks for name in (task.source, task.target)}
    in_extras = {shape.name for extra in extras if extra for shape in extra.objects}
    if in_tasks & in_extras:
        both = ", ".join(sorted(in_tasks & in_extras))
        parser.refuse(where, f"{both} belongs to a task and is an extra object too", "Name it in one place")
    if len(in_tasks | in_extras) > MAX_OBJECTS:
        what = f"{len(in_tasks | in_extras)} different objects can stand on the table"
        parser.refuse(where, what, f"Keep it to {MAX_OBJECTS}: fewer tasks, other_tasks or extras")
    return tuple(shape for name, shape in parser.objects.items() if name in in_tasks | in_extras)


def _instructions(
    parser: SuiteParser, content: dict[str, list[str]], tasks: tuple[Task, ...], where: str
) -> dict[str, tuple[str, ...]]:
    for name in content:
        if name not in {task.name for task in tasks}:
            parser.refuse(where, f"{name!r} is no task of this cell", "Give wordings for the cell's tasks")
    return {name: tuple(texts) for name, texts in content.items()}


def _layout(parser: SuiteParser, content: dict[str, Any], where: str) -> Layout:
    source, target = (_zone(parser, content[key], f"{where}.{key}") for key in ("source", "target"))
    room_x, room_y = content["grip_room"]
    return Layout(
        source=source,
        target=target,
        reach=float(content["reach"]),
        grip_room=(float(room_x), float(room_y)),
        margin=float(content["margin"]),
        apart=float(content["apart"]),
    )


def _zone(parser: SuiteParser, content: dict[str, Any], where: str) -> Zone:
    x, y = (_range(parser, content[key], f"{where}.{key}") for key in ("x", "y"))
    return Zone(x, y, math.radians(content["yaw_degrees"]))


def _range(parser: SuiteParser, content: list[float], where: str) -> tuple[float, float]:
    low, high = float(content[0]), float(content[1])
    if low > high:
        parser.refuse(where, f"{low:g} is above {high:g}", "Give [low, high]")
    return low, high


def _visual(parser: SuiteParser, content: dict[str, Any], where: str) -> Visual:
    ranges = {
        key: _range(parser, content[key], f"{where}.{key}")
        for key in ("ambient", "diffuse")
        if key in content
    }
    return Visual(
        tables=tuple(content.get("tables", ())),
        ambient=ranges.get("ambient"),
        diffuse=ranges.get("diffuse"),
        tint=float(content.get("tint", 0.0)),
        light_turn=math.radians(content.get("light_turn_degrees", 0.0)),
        camera_shift=float(content.get("camera_shift", 0.0)),
        camera_turn=math.radians(content.get("camera_turn_degrees", 0.0)),
    )
