"""Finds and reads the files of a run that its report shows."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape_episodes.quarantine import FOLDER_NAME as QUARANTINE
from jinja2 import Environment, PackageLoader, StrictUndefined

from grape_training.errors import BadInputError
from grape_training.files import TRAINING_CURVE, read_json

if TYPE_CHECKING:
    from grape_preference.pairs import Pair

DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class RunFiles:
    """Where the files of a run are; None: not written yet."""

    run: Path
    summary: Path | None
    scores: Path | None
    pairs: Path | None
    metrics: Path | None
    training_curve: Path | None
    episodes: dict[str, Path]  # id -> folder


def render_page(template: str, page: dict[str, Any]) -> str:
    """Return the page of a template beside this module; a name that ``page`` lacks is an error."""
    environment = Environment(
        loader=PackageLoader("grape_training", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page)


def find_files(run: Path) -> RunFiles:
    """Return the newest file of each kind below ``run``.

    Raises:
        BadInputError: The folder is absent or holds nothing of a run.
    """

    def newest(pattern: str) -> Path | None:
        return max(run.rglob(pattern), key=lambda path: path.stat().st_mtime, default=None)

    if not run.is_dir():
        raise BadInputError(f"{run} is not a folder", "Give the folder of a run, e.g. runs/demo")
    found = {path.parent.name: path.parent for path in sorted(run.rglob("episode.json"))}
    episodes = {
        name: folder
        for name, folder in found.items()
        if not name.endswith(".part") and folder.parent.name != QUARANTINE
    }
    names = {
        "summary": "summary.json",
        "scores": "scores.json",
        "pairs": "pairs.parquet",
        "metrics": "metrics.jsonl",
        "training_curve": TRAINING_CURVE,
    }
    files = RunFiles(run=run, episodes=episodes, **{key: newest(name) for key, name in names.items()})
    if not episodes and all(getattr(files, key) is None for key in names):
        raise BadInputError(f"{run} holds nothing to report", "Run `grape loop` or `grape collect` first")
    return files


def score_rows(files: RunFiles) -> list[dict[str, Any]]:
    """Return the rows of ``scores.json``, each a Score's fields and its ``gcpg``."""
    if files.scores is None:
        return []
    try:
        rows: list[dict[str, Any]] = read_json(files.scores)["episodes"]
    except (KeyError, TypeError) as error:
        raise BadInputError(f"{files.scores} is no file of scores", "Score the episodes again") from error
    return rows


def load_pairs(files: RunFiles) -> list[Pair]:
    """Return the preference pairs; none when they were not made yet.

    Raises:
        BadInputError: The file is no table of pairs.
    """
    from grape_preference.pairs import load_pairs as load_table

    try:
        return load_table(files.pairs) if files.pairs is not None else []
    except (ValueError, OSError) as error:
        raise BadInputError(
            f"{files.pairs} is no table of pairs ({error})", "Score the episodes again"
        ) from error


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure for the page; what is not known is a dash."""
    return DASH if value is None or value == "" else f"{value:.{digits}f}"


def spoken(task: str) -> str:
    """Return a task's name in words."""
    return task.replace("_", " ")


def percent_with_interval(proportion: dict[str, Any]) -> str:
    """Return a rate with its 95 % interval, e.g. ``41 % (31 to 52)``."""
    low, high = (f"{100 * proportion[key]:.0f}" for key in ("low", "high"))
    return f"{100 * proportion['rate']:.0f} % ({low} to {high})"


def data_uri(picture: bytes) -> str:
    """Return WebP bytes as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
