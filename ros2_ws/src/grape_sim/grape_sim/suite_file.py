"""Reading a suite file: size, YAML and schema, with errors that name the file, the place and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from grape_sim.suite_types import SuiteError

MAX_BYTES = 256 * 1024
_HINT = "See docs/how-to/write-suites.md"


class _PlainLoader(yaml.CSafeLoader):
    """Plain YAML that refuses a repeated key instead of forgetting the first, and numbers without end."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} is given more than once", node.start_mark
            )
        loaded: dict[Any, Any] = super().construct_mapping(node, deep)
        return loaded

    def construct_yaml_float(self, node: Any) -> float:
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is no finite number", node.start_mark
            )
        return value


_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_yaml_float)


def read_document(path: Path) -> dict[str, Any]:
    """Return the content of a suite file, checked against the schema.

    Raises:
        SuiteError: the file cannot be read, is too large, is no YAML, or does not follow the schema.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SuiteError(
            str(path), f"cannot be read ({error.strerror})", "Give a suite's YAML file"
        ) from error
    if len(data) > MAX_BYTES:
        raise SuiteError(str(path), f"has {len(data)} bytes", f"Keep it below {MAX_BYTES}")
    try:
        _refuse_aliases(data)
        document = yaml.load(data, _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SuiteError(
            str(path), f"is not valid YAML ({_one_line(error)})", "Correct the YAML there"
        ) from error
    wrong = best_match(_validator().iter_errors(document))
    if wrong is not None:
        raise SuiteError(f"{path}: {place(wrong.absolute_path)}", _what(wrong), _remedy(wrong))
    checked: dict[str, Any] = document
    return checked


def _refuse_aliases(data: bytes) -> None:
    """A few lines of aliases can stand for gigabytes."""
    for event in yaml.parse(data, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*{event.anchor}) are not allowed")


def place(keys: Iterable[str | int]) -> str:
    """Return keys and indices as text, e.g. ``objects.mug.parts[2].size``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".") or "the whole file"


@cache
def _validator() -> Draft202012Validator:
    text = files("grape_sim").joinpath("suite_schema.yaml").read_text(encoding="utf-8")
    return Draft202012Validator(yaml.safe_load(text))


def _what(error: ValidationError) -> str:
    shown = repr(error.instance)
    what = error.message if len(shown) < 80 else error.message.replace(shown, f"{shown[:60]}...")
    return _one_line(what)


def _remedy(error: ValidationError) -> str:
    """Return the description of the nearest part of the schema that has one."""
    described: Any = error
    while described is not None:
        if isinstance(described.schema, dict) and "description" in described.schema:
            return str(described.schema["description"])
        described = described.parent
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        return f"Known here: {', '.join(error.schema.get('properties', {})) or 'nothing'}"
    return _HINT


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
