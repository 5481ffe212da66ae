"""The four in-domain tasks: those that are demonstrated and that the shipped policy was trained on."""

from __future__ import annotations

from grape_sim.suite import Task, load_suite

__all__ = ["TASKS", "Task", "find_task"]

TASKS: dict[str, Task] = load_suite("in_domain").tasks


def find_task(name: str) -> Task:
    """Return the in-domain task called ``name``; raises ``ValueError`` that lists the known names."""
    return load_suite("in_domain").find_task(name)
