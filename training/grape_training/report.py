"""One self-contained HTML page about a run: what was collected, how it was scored, what training changed.

It reads only files that the other commands wrote, wherever they are below the run's folder: ``summary.json``,
``scores.json``, ``pairs.parquet``, ``metrics.jsonl`` and the episodes. What is not there is named on the
page, with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grape_training.errors import BadInputError
from grape_training.files import read_json, read_json_lines, write_text
from grape_training.report_charts import interval_bar, line_chart
from grape_training.report_files import (
    RunFiles,
    find_files,
    load_pairs,
    number,
    percent_with_interval,
    render_page,
    score_rows,
    spoken,
)
from grape_training.report_pairs import pair_views
from grape_training.tables import p_text

REPORT_NAME = "report.html"
STAGES = ("try", "collect", "score", "train", "evaluate", "gate", "reload")
CURVES = {  # column of metrics.jsonl: title, y axis
    "loss": ("TPO loss", "loss"),
    "margin": ("Margin of chosen over rejected", "margin"),
    "accuracy": ("Share of pairs in the right order", "share"),
    "kl": ("KL divergence from the reference", "nats"),
}

BASE_CURVES = {"tokens": "loss of the action tokens, nats", "accuracy": "share of tokens right"}


def write_report(run: Path) -> Path:
    """Write ``<run>/report.html``, atomically; return its path.

    Raises:
        BadInputError: The folder is absent or holds nothing of a run, or a file in it is damaged.
    """
    path = Path(run) / REPORT_NAME
    write_text(path, build_report(Path(run)))
    return path


def build_report(run: Path) -> str:
    """Return the report of a run as HTML; see :func:`write_report`."""
    files = find_files(run)
    scores, summary = score_rows(files), _summary(files)
    page = {
        "name": Path(run).resolve().name,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "evaluation": _evaluation(summary),
        "summary": summary,
        "cards": _cards(files, scores, summary),
        "pairs": pair_views(files, scores),
        "times": _times(summary),
        "curves": _curves(files),
        "base_curves": _base_curves(files),
        "episodes": _episode_rows(scores),
    }
    return render_page("report.html", page)


def _summary(files: RunFiles) -> dict[str, Any]:
    """Return ``summary.json`` as ``grape loop`` writes it; empty when the loop has not ended yet."""
    found = read_json(files.summary) if files.summary is not None else {}
    missing = {"evaluation", "incumbent", "candidate", "promoted", "gate_reason"} - set(found)
    if files.summary is not None and missing:
        what = f"{files.summary} is no summary of a loop: {', '.join(sorted(missing))} missing"
        raise BadInputError(what, "Run `grape loop` again; it takes up what is complete")
    return dict(found)


def _evaluation(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table of success per task, and of the other rates over all tasks; None: not evaluated."""
    if not summary:
        return None
    found = [summary["evaluation"][name] for name in ("before", "after")]
    tasks = sorted(found[0]["tasks"])
    rows = [_success_row(spoken(task), [policy["tasks"][task] for policy in found]) for task in tasks]
    pooled = [policy["pooled"] for policy in found]
    rows.append(_success_row("all tasks", pooled))
    rates = {"grasped": "episodes that grasped the object", "collided": "episodes with a collision"}
    others = [(title, [percent_with_interval(cell[key]) for cell in pooled]) for key, title in rates.items()]
    others.append(("steps, mean", [f"{cell['steps']:.1f}" for cell in pooled]))
    names = [f"before: {summary['incumbent']}", f"after: {summary['candidate']}"]
    change = summary["evaluation"]["difference"]["success"]
    return {
        "names": names,
        "rows": rows,
        "others": others,
        "change": change,
        "p": p_text(change["p_two_sided"]),
    }


def _success_row(title: str, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [cell["success"] for cell in cells]
    texts = [{"text": percent_with_interval(rate), "bar": _bar(rate, i)} for i, rate in enumerate(rates)]
    return {"title": title, "episodes": cells[0]["episodes"], "cells": texts}


def _bar(proportion: dict[str, Any], style: int) -> Markup:
    return interval_bar(proportion["rate"], proportion["low"], proportion["high"], style)


def _cards(files: RunFiles, scores: list[dict[str, Any]], summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures at the top of the page."""
    cards: list[tuple[str, str]] = []
    if summary:
        evaluation = summary["evaluation"]
        for name in ("before", "after"):
            cards.append((f"success {name}", percent_with_interval(evaluation[name]["pooled"]["success"])))
    cards.append(("episodes collected", str(summary.get("episodes", len(files.episodes)))))
    if scores:
        cards.append(("episodes scored", str(sum(row["verdict"] == "ok" for row in scores))))
        cards.append(("steps recorded", str(sum(int(row["steps"] or 0) for row in scores))))
        cards.append(("of these in collision", str(sum(int(row["collisions"] or 0) for row in scores))))
    if files.pairs is not None:
        cards.append(("preference pairs", str(len(load_pairs(files)))))
    rows = read_json_lines(files.metrics) if files.metrics is not None else []
    if rows:
        cards.append(("TPO loss, first to last", f"{rows[0]['loss']:.3f} to {rows[-1]['loss']:.3f}"))
    return cards


def _times(summary: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the seconds of every stage in the order in which they run."""
    seconds = summary.get("seconds", {})
    return [(name, float(seconds[name])) for name in STAGES if name in seconds]


def _curves(files: RunFiles) -> list[tuple[str, Markup]]:
    rows = read_json_lines(files.metrics) if files.metrics is not None else []
    return [
        (
            title,
            line_chart(
                {title: [float(row[key]) for row in rows]},
                title=f"{title} over {len(rows)} optimiser steps",
                x_label="optimiser step",
                y_label=unit,
            ),
        )
        for key, (title, unit) in CURVES.items()
        if rows and key in rows[0]
    ]


def _base_curves(files: RunFiles) -> list[tuple[str, Markup]]:
    """Return a chart of pre-training and one of fine-tuning of the policy that the run started from."""
    rows = read_json_lines(files.training_curve) if files.training_curve is not None else []
    charts = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        curve = [row for row in rows if row["stage"] == stage]
        lines = {title: [float(row[key]) for row in curve] for key, title in BASE_CURVES.items()}
        chart = line_chart(
            lines,
            title=f"{stage} up to step {curve[-1]['step']}",
            x_label="optimiser step",
            y_label="",
            step=float(curve[0]["step"]),
        )
        charts.append((f"Before: {stage}", chart))
    return charts


def _episode_rows(scores: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table of all scored episodes, best first inside each initial state."""
    ordered = sorted(scores, key=lambda row: (row["initial_state_id"], -(row.get("gcpg") or 0.0)))
    return [
        {
            "state": row["initial_state_id"],
            "outcome": row["outcome"] if row["verdict"] == "ok" else f"{row['verdict']}: {row['message']}",
            "steps": str(row["steps"]),
            "collisions": str(row["collisions"]),
            "r_ext": number(row["r_ext"]),
            "r_self": number(row["r_self_mean"]),
            "i_success": number(row["i_success"], 0),
            "gcpg": number(row.get("gcpg")),
        }
        for row in ordered
    ]
