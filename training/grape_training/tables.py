"""Tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def percent(proportion: dict[str, Any]) -> str:
    """Return a rate with its 95 % interval, e.g. ``41% (31-52)``."""
    return f"{proportion['rate']:.0%} ({100 * proportion['low']:.0f}-{100 * proportion['high']:.0f})"


def print_evaluation(document: dict[str, Any]) -> None:
    """Print success per task and policy, and the paired comparisons with the first policy."""
    policies = document["policies"]
    table = Table(title="success with 95 % intervals")
    table.add_column("task")
    for name in policies:
        table.add_column(name, justify="right")
    first = next(iter(policies.values()))
    for task in first["tasks"]:
        table.add_row(task, *(percent(found["tasks"][task]["success"]) for found in policies.values()))
    for key, title in (("success", "all"), ("grasped", "grasped"), ("collided", "collided")):
        table.add_row(title, *(percent(found["pooled"][key]) for found in policies.values()))
    table.add_row("steps", *(f"{found['pooled']['steps']:.1f}" for found in policies.values()))
    console = Console()
    console.print(table)
    for name, difference in document["compared_with_first"].items():
        change = difference["success"]
        low, high = 100 * change["low"], 100 * change["high"]
        console.print(
            f"{name}: success {change['difference']:+.1%} ({low:+.0f} to {high:+.0f}), "
            f"{change['gained']} gained, {change['lost']} lost, p = {change['p_two_sided']:.3f}"
        )
