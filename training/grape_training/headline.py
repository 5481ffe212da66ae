"""``grape bench headline``: from raw results to ``headline.json``, page and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grape_training.files import write_json, write_text
from grape_training.headline_figures import draw_figures
from grape_training.headline_page import make_page
from grape_training.headline_raw import read_raw
from grape_training.headline_summary import make_summary


def rebuild(results: Path, name: str, *, partial: bool = False) -> dict[str, Any]:
    """Make ``<name>.json``, ``<name>.md`` and figures in ``results`` from the raw files in ``results/name``.

    ``partial``: cells that were not evaluated are left out; the page says so.

    Raises:
        BadInputError: raw files are missing, damaged or incomplete, or contradict each other.
    """
    raw = read_raw(results / name, partial=partial)
    document, study = make_summary(raw), raw.study.model_dump(mode="json")
    figures = draw_figures(document, study, raw.curves, results / name)
    paths = [str(path.relative_to(results)) for path in figures]
    command = "grape bench headline" + (" --quick" if name.endswith("_quick") else "")
    write_json(results / f"{name}.json", document)
    write_text(results / f"{name}.md", make_page(document, study, paths, command))
    return document
