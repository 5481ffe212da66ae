"""Which template gives a task its stages: by the table ``tasks.yaml``, else by the task's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from grape_preference.appearance import appearances

PUSH_DISTANCE = 0.09  # m, centre to centre, unless the table says otherwise
_NAMES = {
    "placed": re.compile(r"(?P<source>.+)_(?:on|in)_(?P<target>.+)"),
    "pushed": re.compile(r"push_(?P<source>.+)_to_(?P<target>.+)"),
    "knocked_over": re.compile(r"knock_over_(?P<source>.+)"),
}


@dataclass(frozen=True)
class TemplateTask:
    """What fills in a template: its name (``kind``), and the objects; ``distance`` (m) of a push."""

    kind: str
    source: str
    target: str
    distance: float = PUSH_DISTANCE


def find_template(task: str) -> TemplateTask | None:
    """Return the template of ``task``; None when neither the table nor its name tells."""
    row = _table().get(task)
    if row is not None:
        return TemplateTask(**{"target": row["source"], **row})
    for kind, pattern in _NAMES.items():
        match = pattern.fullmatch(task)
        if match is not None and set(match.groupdict().values()) <= appearances().keys():
            names = match.groupdict()
            return TemplateTask(kind, names["source"], names.get("target", names["source"]))
    return None


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("grape_preference").joinpath("tasks.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)["tasks"]
    return table
