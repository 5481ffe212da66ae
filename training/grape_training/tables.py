"""Tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def p_text(p: float) -> str:
    """Return a p-value as text; a small one is never zero."""
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def percent(proportion: dict[str, Any]) -> str:
    """Return a rate with its 95 % interval, e.g. ``41% (31-52)``."""
    return f"{proportion['rate']:.0%} ({100 * proportion['low']:.0f}-{100 * proportion['high']:.0f})"


def print_evaluation(document: dict[str, Any]) -> None:
    """Print success per task and policy, the paired comparisons with the first policy, and the checks."""
    policies = document["policies"]
    table = Table(title=f"success on {document['suite']} with 95 % intervals")
    table.add_column("task")
    for name in policies:
        table.add_column(name, justify="right")
    first = next(iter(policies.values()))
    for task in first["tasks"]:
        table.add_row(task, *(percent(found["tasks"][task]["success"]) for found in policies.values()))
    for key, title in (("success", "all"), ("grasped", "grasped"), ("collided", "collided")):
        table.add_row(title, *(percent(found["pooled"][key]) for found in policies.values()))
    for key, title in (("steps", "steps"), ("path_length", "path, m"), ("jerk", "jerk, m/s^3")):
        table.add_row(title, *(f"{found['pooled'][key]:.2f}" for found in policies.values()))
    console = Console()
    console.print(table)
    for name, difference in document["compared_with_first"].items():
        change = difference["success"]
        low, high = 100 * change["low"], 100 * change["high"]
        console.print(
            f"{name}: success {change['difference']:+.1%} ({low:+.0f} to {high:+.0f}), "
            f"{change['gained']} gained, {change['lost']} lost, {p_text(change['p_two_sided'])}"
        )
    _print_checks(console, document["checks"])
    console.print(f"report: {document['report']}", soft_wrap=True)


def _print_checks(console: Console, checks: dict[str, Any] | None) -> None:
    if checks is None:
        console.print("checks against fooling: not run (--no-checks)")
        return
    console.print(f"check passed: {checks['determinism']} episodes repeated bit for bit", soft_wrap=True)
    for finding in checks["findings"]:
        about = (
            finding["check"]
            if finding["check"] == finding["policy"]
            else f"{finding['policy']}, {finding['check']}"
        )
        console.print(f"check {finding['verdict']}: {about}: {finding['message']}", soft_wrap=True)
