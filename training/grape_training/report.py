"""One self-contained HTML page about a run: what was collected, how it was scored, what training changed.

It reads only files that the other commands wrote, wherever they are below the run's folder: ``summary.json``,
``evaluation.json``, ``scores.json``, ``pairs.parquet``, ``metrics.jsonl`` and the episodes. What is not there
is named on the page, with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grape_training.errors import BadInputError
from grape_training.files import read_json, read_json_lines, write_text
from grape_training.report_charts import interval_bar, line_chart
from grape_training.report_files import RunFiles, find_files, load_pairs, number, score_rows, spoken
from grape_training.report_pairs import pair_views

REPORT_NAME = "report.html"
CURVES = {
    "loss": "TPO loss",
    "margin": "margin of chosen over rejected",
    "accuracy": "share of pairs in the right order",
    "kl": "KL divergence from the reference, nats",
}


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
    environment = Environment(
        loader=PackageLoader("grape_training", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores, policies = score_rows(files), _policies(files)
    page = {
        "name": Path(run).resolve().name,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "evaluation": _evaluation(policies),
        "decision": _decision(files),
        "cards": _cards(files, scores, policies),
        "pairs": pair_views(files, scores),
        "curves": _curves(files),
        "episodes": _episode_rows(scores),
    }
    return environment.get_template("report.html").render(page)


def _policies(files: RunFiles) -> dict[str, dict[str, Any]]:
    """Return the evaluated policies, the one that the others are compared with first; none: not evaluated.

    Raises:
        BadInputError: The file is no evaluation.
    """
    if files.evaluation is None:
        return {}
    document = read_json(files.evaluation)
    try:
        policies, compared = document["policies"], document["compared_with_first"]
        names = sorted(policies, key=lambda name: name in compared)  # JSON keeps no order
        return {name: {**policies[name], "change": compared.get(name)} for name in names}
    except (KeyError, TypeError) as error:
        raise BadInputError(f"{files.evaluation} is no evaluation", "Evaluate again") from error


def _evaluation(policies: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the table of success per task, and of the other rates over all tasks; None: not evaluated."""
    if not policies:
        return None
    found = list(policies.values())
    tasks = sorted(found[0]["tasks"])
    rows = [_success_row(spoken(task), [policy["tasks"][task] for policy in found]) for task in tasks]
    pooled = [policy["pooled"] for policy in found]
    rows.append(_success_row("all tasks", pooled))
    rates = {"grasped": "episodes that grasped the object", "collided": "episodes with a collision"}
    others = [(title, [percent_with_interval(cell[key]) for cell in pooled]) for key, title in rates.items()]
    others.append(("steps, mean", [f"{cell['steps']:.1f}" for cell in pooled]))
    changes = [
        {"name": name, **policy["change"]["success"]} for name, policy in policies.items() if policy["change"]
    ]
    return {"names": list(policies), "rows": rows, "others": others, "changes": changes}


def _success_row(title: str, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [cell["success"] for cell in cells]
    texts = [{"text": percent_with_interval(rate), "bar": _bar(rate, i)} for i, rate in enumerate(rates)]
    return {"title": title, "episodes": cells[0]["episodes"], "cells": texts}


def _bar(proportion: dict[str, Any], style: int) -> Markup:
    return interval_bar(proportion["rate"], proportion["low"], proportion["high"], style)


def percent_with_interval(proportion: dict[str, Any]) -> str:
    """Return a rate with its 95 % interval, e.g. ``41 % (31 to 52)``."""
    low, high = (f"{100 * proportion[key]:.0f}" for key in ("low", "high"))
    return f"{100 * proportion['rate']:.0f} % ({low} to {high})"


def _decision(files: RunFiles) -> dict[str, Any] | None:
    """Return the gate's decision from the summary: promote and reason."""
    found = _summary(files).get("gate") or {}
    return {"promote": bool(found["promote"]), "reason": str(found["reason"])} if "reason" in found else None


def _summary(files: RunFiles) -> dict[str, Any]:
    found = read_json(files.summary) if files.summary is not None else {}
    return found if isinstance(found, dict) else {}


def _cards(
    files: RunFiles, scores: list[dict[str, Any]], policies: dict[str, dict[str, Any]]
) -> list[tuple[str, str]]:
    """Return the figures at the top of the page."""
    rates = [percent_with_interval(found["pooled"]["success"]) for found in policies.values()]
    cards = list(zip(("success before", "success after"), rates, strict=False))
    cards.append(("episodes collected", str(len(files.episodes))))
    if scores:
        cards.append(("episodes scored", str(sum(row["verdict"] == "ok" for row in scores))))
        cards.append(("collision steps", str(sum(int(row["collisions"] or 0) for row in scores))))
        cards.append(("steps recorded", str(sum(int(row["steps"] or 0) for row in scores))))
    if files.pairs is not None:
        cards.append(("preference pairs", str(len(load_pairs(files)))))
    rows = read_json_lines(files.metrics) if files.metrics is not None else []
    if rows:
        cards.append(("TPO loss, first to last", f"{rows[0]['loss']:.3f} to {rows[-1]['loss']:.3f}"))
    return cards


def _curves(files: RunFiles) -> list[tuple[str, Markup]]:
    rows = read_json_lines(files.metrics) if files.metrics is not None else []
    return [
        (
            title,
            line_chart(
                {title: [float(row[key]) for row in rows]},
                title=f"{title} over {len(rows)} optimiser steps",
                x_label="optimiser step",
                y_label=title.split(",")[0],
            ),
        )
        for key, title in CURVES.items()
        if rows and key in rows[0]
    ]


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
