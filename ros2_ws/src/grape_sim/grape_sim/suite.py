"""Benchmark suites as data: ``load_suite("unseen_subject")`` or ``load_suite("my_suite.yaml")``.

A suite's YAML describes objects, tasks, how they are laid out and seen, when a task is done and what counts
as a collision. Nothing in the simulation knows an object or a task by name.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from grape_sim.suite_parsing import SuiteParser
from grape_sim.suite_types import Cell, Suite, SuiteError, Task

__all__ = ["SHIPPED", "Cell", "Suite", "SuiteError", "Task", "load_suite"]

SHIPPED = (
    "in_domain",
    "unseen_subject",
    "unseen_physical",
    "unseen_semantic",
    "unseen_visual",
    "language_grounding",
    "unseen_action",
    "obstacle",
    "efficiency",
)
_MAX_DEPTH = 4  # of suites that include suites


def load_suite(name_or_path: str | Path | Suite) -> Suite:
    """Return a shipped suite by name or a suite file by path; a ``Suite`` is returned as it is.

    Raises:
        SuiteError: there is no such suite, or its file is wrong; one line with file, place and remedy.
    """
    if isinstance(name_or_path, Suite):
        return name_or_path
    return _load(str(name_or_path), Path.cwd(), 0)


def _load(name: str, folder: Path, depth: int, wanted_by: str = "") -> Suite:
    if depth > _MAX_DEPTH:
        raise SuiteError(name, f"is included {depth} deep or by itself", "Include fewer suites in suites")
    if name in SHIPPED:
        return _shipped(name)
    path = (folder / name).resolve()
    if not path.is_file():
        raise SuiteError(
            f"{wanted_by}suite {name!r}", "there is no such suite or file", f"Shipped: {', '.join(SHIPPED)}"
        )
    suite = SuiteParser(
        path, str(path), lambda other: _load(other, path.parent, depth + 1, f"{path}: include: ")
    ).parse()
    if suite.name in SHIPPED:
        raise SuiteError(
            f"{path}: suite", f"{suite.name!r} is the name of a shipped suite", "Choose another name"
        )
    return suite


@cache
def _shipped(name: str) -> Suite:
    path = Path(str(files("grape_sim").joinpath("suites", f"{name}.yaml")))
    return SuiteParser(path, name, _shipped).parse()
