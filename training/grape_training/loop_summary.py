"""What a loop achieved: the summary for programs and the table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grape_training.tables import p_text, percent


def make_summary(
    output: Path, incumbent: str, results: dict[str, dict[str, Any]], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return ``summary.json``: success before and after, data, training, gate, versions, times."""
    evaluation, gate, trained = results["evaluate"], results["gate"], results["train"]
    before, after = evaluation["before"]["pooled"], evaluation["after"]["pooled"]
    return {
        "success_before": before["success"],
        "success_after": after["success"],
        "success_difference": evaluation["difference"]["success"],
        "collision_rate_before": before["collided"],
        "collision_rate_after": after["collided"],
        "steps_before": before["steps"],
        "steps_after": after["steps"],
        "evaluation": evaluation,
        "evaluation_episodes": before["episodes"] + after["episodes"],
        "episodes": results["try"]["episodes"] + results["collect"]["episodes"],
        "rollout_successes": results["try"]["successes"] + results["collect"]["successes"],
        "states_sampled": len(results["try"]["chosen"]),
        "states_failed": results["try"]["failed"],
        "pairs": trained["pairs"],
        "tpo": {key: trained[key] for key in ("loss", "margin", "accuracy", "kl", "steps")},
        "incumbent": incumbent,
        "candidate": trained["candidate"],
        "promoted": gate["promote"],
        "gate_reason": gate["reason"],
        "reload": results.get("reload"),
        "registry": str(output / "registry"),
        "seconds": seconds,
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table, the gate's decision and where the report is."""
    table = Table(title="The loop, once round")
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("success", percent(summary["success_before"]), percent(summary["success_after"]))
    for task, found in summary["evaluation"]["before"]["tasks"].items():
        other = summary["evaluation"]["after"]["tasks"][task]
        table.add_row(f"  {task}", percent(found["success"]), percent(other["success"]))
    table.add_row(
        "collided", percent(summary["collision_rate_before"]), percent(summary["collision_rate_after"])
    )
    table.add_row("steps", f"{summary['steps_before']:.1f}", f"{summary['steps_after']:.1f}")
    console = Console()
    console.print(table)
    _print_rest(console, summary)


def _print_rest(console: Console, summary: dict[str, Any]) -> None:
    change, tpo = summary["success_difference"], summary["tpo"]
    console.print(
        f"paired difference {change['difference']:+.1%} (95 % {100 * change['low']:+.0f} to "
        f"{100 * change['high']:+.0f}), exact McNemar {p_text(change['p_two_sided'])}, "
        f"{summary['evaluation_episodes']} evaluation episodes"
    )
    console.print(
        f"{summary['episodes']} rollouts ({summary['rollout_successes']} successful), the sampled ones from "
        f"{summary['states_sampled']} initial states, in {summary['states_failed']} of which the greedy "
        "one had failed; "
        f"{summary['pairs']} pairs, TPO loss {tpo['loss']:.4f}, margin {tpo['margin']:+.2f}"
    )
    verdict = "promoted" if summary["promoted"] else f"refused, {summary['incumbent']} stays"
    console.print(f"gate: {summary['candidate']} {verdict}: {summary['gate_reason']}", soft_wrap=True)
    reload = summary["reload"]
    if reload:
        proof = reload["proof"]
        console.print(
            f"the running policy node switched to {reload['version']}; recorded proof: {proof['episode_id']} "
            f"({proof['outcome']}, {proof['steps']} steps)",
            soft_wrap=True,
        )
        console.print(f"to go back: grape rollback --registry {summary['registry']}", soft_wrap=True)
    console.print(f"report: {summary['report']}", soft_wrap=True)
