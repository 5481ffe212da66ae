"""Stage files: the stages of a task and their constraints, as checked data.

A stage file is YAML (or JSON); ``stages/schema.json`` gives its structure.
Errors name the file, the stage, the constraint and the column.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from grape_preference.appearance import Appearance, appearances, read_appearance
from grape_preference.expression_syntax import ConstraintError
from grape_preference.expressions import Expression, parse_expression
from grape_preference.language_functions import BUILT_IN_POINTS, FUNCTIONS, VARIABLES
from grape_preference.language_types import BOOLEAN, ONE
from grape_preference.task_table import TemplateTask, find_template

KINDS = ("path", "sub_goal", "collision")
MAX_FILE_BYTES, MAX_FILE_DEPTH = 64 * 1024, 12
_NAME = re.compile("[a-z][a-z0-9_]{0,39}")

__all__ = [
    "KINDS",
    "Constraint",
    "ConstraintError",
    "Stage",
    "StagePlan",
    "check_expression",
    "check_file",
    "plan_for_task",
    "plan_from_document",
    "shipped_tasks",
    "template_plan",
]


@dataclass(frozen=True)
class Constraint:
    """One term of a stage: ``weight * max(0, expression - threshold)``; a condition counts 1 where false."""

    kind: str
    expression: Expression
    weight: float
    threshold: float
    unit: str


@dataclass(frozen=True)
class Stage:
    """One stage: from its start condition (None: the end of the stage before) to its end condition."""

    name: str
    start: Expression | None
    end: Expression
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True)
class StagePlan:
    """All stages of a task; ``sha256`` identifies the data it was read from.

    ``success`` is the condition that the judge asks for at the last frame: the end of the last stage unless
    the file says otherwise. ``appearances`` are the looks of keypoints that the file declares itself.
    """

    task: str
    keypoints: tuple[str, ...]
    unreached_cost: float
    stages: tuple[Stage, ...]
    success: Expression
    sha256: str
    appearances: tuple[Appearance, ...] = ()


def check_expression(text: str, keypoints: Iterable[str] | None = None) -> Expression:
    """Check one expression over ``keypoints`` (default: every declared object); raise ConstraintError."""
    return parse_expression(text, appearances() if keypoints is None else keypoints)


def check_file(path: Path | str) -> StagePlan:
    """Read and check a stage file; raise ConstraintError with file, stage, constraint and column."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConstraintError(f"{path}: cannot be read ({error.strerror})") from None
    return plan_from_document(_load_yaml(data, path.name), path.name)


def shipped_tasks() -> list[str]:
    """Return the tasks that have a shipped stage file, sorted."""
    entries = files("grape_preference").joinpath("stages").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


@cache
def plan_for_task(task: str) -> StagePlan:
    """Return the shipped stages of ``task``, from its own file or a template; ConstraintError if none."""
    if task in shipped_tasks():
        name = f"{task}.yaml"
        data = files("grape_preference").joinpath("stages", name).read_bytes()
        return plan_from_document(_load_yaml(data, name), name)
    found = find_template(task)
    if found is not None:
        return template_plan(task, found)
    raise ConstraintError(
        f"no stages for task {task!r}; there are stages for {', '.join(shipped_tasks())}, and for "
        "<source>_on_<target> or <source>_in_<target> with objects of appearance.yaml"
    )


def template_plan(task: str, filling: TemplateTask) -> StagePlan:
    """Return the stages of ``task`` from a template, filled in with objects and distance.

    Raises:
        ConstraintError: a name is not one of the language (lower case, digits, underscores).
    """
    for name in (task, filling.kind, filling.source, filling.target):
        if not _NAME.fullmatch(name):
            raise ConstraintError(f"{name!r} is not a name of the form [a-z][a-z0-9_]*")
    template = files("grape_preference").joinpath("stages", "templates", f"{filling.kind}.yaml")
    text = Template(template.read_text(encoding="utf-8")).substitute(asdict(filling), task=task)
    where = f"{filling.kind}.yaml for {task}"
    return plan_from_document(_load_yaml(text.encode(), where), where)


def plan_from_document(document: object, where: str) -> StagePlan:
    """Check plain data (from YAML, JSON or a model's answer) and return the plan; raise ConstraintError."""
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        raise ConstraintError(f"{_place(where, document, error.absolute_path)}: {_shorten(error.message)}")
    assert isinstance(document, dict)
    keypoints = tuple(document["keypoints"])
    taken = sorted(set(keypoints) & (FUNCTIONS.keys() | VARIABLES.keys() | BUILT_IN_POINTS.keys()))
    if taken:
        raise ConstraintError(
            f"{where}, keypoints: {taken[0]!r} is a word of the language; choose another name"
        )
    stages = tuple(
        _stage(fields, f"{_stage_place(where, i, fields)}", keypoints)
        for i, fields in enumerate(document["stages"])
    )
    success = stages[-1].end
    if "success" in document:
        success = _condition(document["success"], f"{where}, success", keypoints)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return StagePlan(
        document["task"],
        keypoints,
        _finite(document["unreached_cost"], f"{where}, unreached_cost"),
        stages,
        success,
        digest,
        _appearances(document.get("appearances", {}), keypoints, where),
    )


def _appearances(rows: dict[str, Any], keypoints: tuple[str, ...], where: str) -> tuple[Appearance, ...]:
    for name, row in rows.items():
        if name not in keypoints:
            raise ConstraintError(f"{where}, appearances: {name!r} is no keypoint of the file")
        _finite(row["size"], f"{where}, appearances, {name}, size")
    return tuple(read_appearance(name, row) for name, row in rows.items())


def _load_yaml(data: bytes, name: str) -> object:
    if len(data) > MAX_FILE_BYTES:
        raise ConstraintError(f"{name}: larger than {MAX_FILE_BYTES // 1024} kB")
    try:
        _check_yaml_shape(data, name)
        return yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConstraintError(f"{name}{line}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConstraintError):
            raise
        raise ConstraintError(f"{name}: not YAML ({_shorten(str(error))})") from None


def _check_yaml_shape(data: bytes, name: str) -> None:
    """Refuse aliases, which expand a small file without bound, and deep nesting, which takes long."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConstraintError(f"{name}: YAML aliases (*name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_FILE_DEPTH:
            raise ConstraintError(f"{name}: nested deeper than {MAX_FILE_DEPTH} levels")


@cache
def _validator() -> Draft202012Validator:
    text = files("grape_preference").joinpath("stages/schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _stage(fields: dict[str, Any], where: str, keypoints: tuple[str, ...]) -> Stage:
    start = _condition(fields["start"], f"{where}, start", keypoints) if "start" in fields else None
    end = _condition(fields["end"], f"{where}, end", keypoints)
    constraints = tuple(
        _constraint(item, f"{where}, constraint {number}", keypoints)
        for number, item in enumerate(fields["constraints"], start=1)
    )
    return Stage(fields["name"], start, end, constraints)


def _condition(text: str, where: str, keypoints: tuple[str, ...]) -> Expression:
    expression = _parse(text, where, keypoints)
    if expression.kind != BOOLEAN:
        raise ConstraintError(f"{where}: a condition is needed; compare the value with < or >")
    return expression


def _constraint(fields: dict[str, Any], where: str, keypoints: tuple[str, ...]) -> Constraint:
    expression = _parse(fields["expression"], where, keypoints)
    unit = str(ONE if expression.kind == BOOLEAN else expression.kind)
    if fields["unit"] != unit:
        raise ConstraintError(
            f"{where}: the unit is declared as {fields['unit']!r} but the expression is in {unit!r}"
        )
    weight, threshold = (_finite(fields[name], f"{where}, {name}") for name in ("weight", "threshold"))
    return Constraint(fields["kind"], expression, weight, threshold, unit)


def _finite(number: float, where: str) -> float:
    """Return the number; the schema's bounds let NaN pass, so it is refused here."""
    if not math.isfinite(number):
        raise ConstraintError(f"{where}: {number} is not a finite number")
    return float(number)


def _parse(text: str, where: str, keypoints: tuple[str, ...]) -> Expression:
    try:
        return parse_expression(text, keypoints)
    except ConstraintError as error:
        raise ConstraintError(f"{where}, {error}" if error.column else f"{where}: {error}") from None


def _stage_place(where: str, index: int, fields: object) -> str:
    name = fields.get("name") if isinstance(fields, dict) else None
    return f"{where}, stage {index + 1}" + (f" {name!r}" if isinstance(name, str) else "")


def _place(where: str, document: object, path: Iterable[str | int]) -> str:
    steps = list(path)
    if len(steps) >= 2 and steps[0] == "stages" and isinstance(document, dict):
        index = int(steps[1])
        where, steps = _stage_place(where, index, document["stages"][index]), steps[2:]
        if len(steps) >= 2 and steps[0] == "constraints":
            where, steps = f"{where}, constraint {int(steps[1]) + 1}", steps[2:]
    return ", ".join([where, *map(str, steps)])


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
