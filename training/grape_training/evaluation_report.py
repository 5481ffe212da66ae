"""One self-contained HTML page about an evaluation, and its pictures as files beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grape_training.cells import CellResult
from grape_training.evaluation_pictures import (
    contact_sheet,
    png,
    side_by_side_film,
    stage_chart,
    success_chart,
)
from grape_training.evaluation_tables import difference_tables, motion_rows, success_rows
from grape_training.files import write_bytes, write_text
from grape_training.report_files import data_uri, percent_with_interval, render_page, spoken
from grape_training.suites import EvaluationSuite

REPORT_NAME = "evaluation.html"
SHOWN = 3  # policies side by side
Films = Mapping[tuple[str, str], np.ndarray]
Results = Mapping[str, Sequence[CellResult]]


def write_evaluation_report(
    output: Path, suite: EvaluationSuite, document: dict[str, Any], results: Results, films: Films
) -> Path:
    """Write ``<output>/evaluation.html`` and its pictures; return the page's path.

    Args:
        output: folder of the evaluation.
        suite: where its initial states come from.
        document: what ``grape eval --json`` prints.
        results: episodes by policy.
        films: images by policy and initial state; may be empty.
    """
    policies = document["policies"]
    names = list(policies)
    charts = {"success": success_chart(policies), "stages": stage_chart(policies)}
    for name, chart in charts.items():
        write_bytes(output / f"{name}.png", png(chart))
    page = {
        "suite": document["suite"],
        "description": document["description"],
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "states": policies[names[0]]["pooled"]["episodes"],
        "names": names,
        "cards": [(f"success of {name}", _overall(found)) for name, found in policies.items()],
        "success": success_rows(policies),
        "differences": difference_tables(document["compared_with_first"], names[0]),
        "motion": motion_rows(policies),
        "checks": document["checks"],
        "pictures": {name: data_uri(_webp(chart)) for name, chart in charts.items()},
        "heights": {name: chart.height for name, chart in charts.items()},
        "cells": _cell_views(output, suite, results, films),
        "hash": document["suite_hash"][:16],
        "seed": document["seed"],
        "max_steps": document["max_steps"],
    }
    path = output / REPORT_NAME
    write_text(path, render_page("evaluation_report.html", page))
    return path


def _overall(found: dict[str, Any]) -> str:
    return percent_with_interval(found["pooled"]["success"])


def _cell_views(output: Path, suite: EvaluationSuite, results: Results, films: Films) -> list[dict[str, Any]]:
    """Write each cell's contact sheet and films and return what the page shows of them."""
    names = list(dict.fromkeys(name for name, _ in films))[:SHOWN]
    known = {(name, cell.initial_state_id): cell for name in names for cell in results[name]}
    by_cell: dict[str, list[str]] = {}
    for _, state in films:
        states = by_cell.setdefault(state.split("/")[0], [])
        if state not in states:
            states.append(state)
    views = []
    for cell, unsorted in sorted(by_cell.items()):
        states = sorted(unsorted)
        sheet = contact_sheet(spoken(cell), states, names, films, known)
        write_bytes(output / "sheets" / f"{cell}.png", png(sheet))
        views.append(
            {
                "title": spoken(cell),
                "sheet": data_uri(_webp(sheet)),
                "width": sheet.width,
                "height": sheet.height,
                "films": [_film_view(output, suite, state, names, films, known) for state in states],
            }
        )
    return views


def _film_view(
    output: Path,
    suite: EvaluationSuite,
    state: str,
    names: Sequence[str],
    films: Films,
    known: Mapping[tuple[str, str], CellResult],
) -> dict[str, Any]:
    film = side_by_side_film([films[n, state] for n in names], [known[n, state] for n in names], names)
    write_bytes(output / "films" / f"{state.replace('/', '_')}.webp", film)
    picture = Image.open(io.BytesIO(film))
    width, height = picture.size
    picture.seek(getattr(picture, "n_frames", 1) - 1)
    return {
        "state": state,
        "instruction": suite.sample(state).instruction,
        "film": data_uri(film),
        "still": data_uri(_webp(picture.convert("RGB"))),
        "width": width,
        "height": height,
    }


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
