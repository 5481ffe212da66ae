"""The raw results of a study in a folder of a few hundred kilobytes: what the table is rebuilt from.

``study.yaml``: the study. ``episodes.csv.gz``: a row for every evaluated episode. ``curves.csv.gz``: a row
for every optimiser step. ``stages.json``: result, cost and machine of every stage, and the hashes of both
tables.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_training.cells import CellResult
from grape_training.errors import BadInputError
from grape_training.files import hash_file, read_json, read_json_lines, write_bytes, write_json, write_text
from grape_training.headline_plan import Study, load_study
from grape_training.headline_rows import FIELDS, cell_of
from grape_training.headline_run import StudyRun
from grape_training.headline_stages import EVALUATE, TRAIN, Stage, list_stages

STUDY, EPISODES, CURVES, STAGES = "study.yaml", "episodes.csv.gz", "curves.csv.gz", "stages.json"
CURVE = (
    *("loss", "margin", "accuracy", "chosen_log_probability", "rejected_log_probability"),
    *("kl", "gradient_norm", "learning_rate"),
)
_LONG = ("rows", "episode_ids", "adapter", "files")  # parts of results that are not kept here
Key = tuple[str, str, int]  # suite, arm, seed


@dataclass(frozen=True)
class Raw:
    """What a study gave: episodes per (suite, arm, seed) in the order of the states, curves, stages by id.

    ``missing``: the (suite, arm, seed) that were not evaluated.
    """

    study: Study
    episodes: Mapping[Key, Sequence[CellResult]]
    curves: Mapping[tuple[str, int], Sequence[Mapping[str, float]]]
    stages: Mapping[str, Mapping[str, Any]]
    missing: tuple[Key, ...]


def export(run: StudyRun, study_text: str, folder: Path) -> None:
    """Write all that is done so far into ``folder``."""
    done = [stage for stage in run.stages if stage.id in run.results]
    write_text(folder / STUDY, study_text)
    rows = (
        [stage.suite, stage.name, stage.seed, *row]
        for stage in done
        if stage.kind == EVALUATE
        for row in run.results[stage.id]["rows"]
    )
    _write_table(folder / EPISODES, ["suite", "arm", "seed", *FIELDS], rows)
    curves = (row for stage in done if stage.kind == TRAIN for row in _curve(run, stage))
    _write_table(folder / CURVES, ["arm", "seed", "step", *CURVE], curves)
    stages = {stage.id: _summary(run.saved(stage)) for stage in done}
    files = {name: hash_file(folder / name) for name in (EPISODES, CURVES)}
    write_json(folder / STAGES, {"files": files, "stages": stages})


def _curve(run: StudyRun, stage: Stage) -> Iterable[list[Any]]:
    for row in read_json_lines(run.work.folder / stage.id / "metrics.jsonl"):
        values = [f"{row[name]:.6g}" if name in row else "" for name in CURVE]
        yield [stage.name, stage.seed, row["step"], *values]


def _summary(saved: dict[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in saved["result"].items() if name not in _LONG}
    if "rows" in saved["result"]:
        result["successes"] = sum(row[FIELDS.index("success")] for row in saved["result"]["rows"])
    return {**{name: saved[name] for name in ("inputs", "cost", "workers", "machine")}, "result": result}


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read ({error})", "Restore it") from error


def read_raw(folder: Path, *, partial: bool = False) -> Raw:
    """Read and check raw results; ``partial``: cells that were not evaluated are allowed.

    Raises:
        BadInputError: a file is missing, damaged or of another run; rows are missing, doubled or not of
            this study; or stages and rows contradict each other.
    """
    study = load_study(folder / STUDY)
    document = read_json(folder / STAGES, "Run the study, or give the folder of its results")
    for name, sha in document["files"].items():
        if not (folder / name).is_file() or hash_file(folder / name) != sha:
            raise BadInputError(
                f"{folder / name} is not the file that {STAGES} is about", "Restore both from the same run"
            )
    episodes = _episodes(study, folder / EPISODES)
    missing = tuple(key for key in study.cells if key not in episodes)
    if missing and not partial:
        raise BadInputError(
            f"{len(missing)} of {len(study.cells)} cells have no episodes, the first is {_name(missing[0])}",
            "Run the study to its end, or use --partial",
        )
    _check_stages(study, document["stages"], episodes, partial)
    return Raw(study, episodes, _curves(folder / CURVES), document["stages"], missing)


def _episodes(study: Study, path: Path) -> dict[Key, list[CellResult]]:
    found: dict[Key, list[CellResult]] = {}
    try:
        for row in _read_table(path):
            found.setdefault((row["suite"], row["arm"], int(row["seed"])), []).append(cell_of(row))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error})", "Restore it") from error
    unknown = sorted(set(found) - set(study.cells))
    if unknown:
        raise BadInputError(f"{path} has episodes of {_name(unknown[0])}, not in the study", "Restore it")
    states = {suite: study.evaluation.state_ids(suite) for suite in {key[0] for key in found}}
    return {key: _in_order(path, key, cells, states[key[0]]) for key, cells in found.items()}


def _in_order(path: Path, key: Key, cells: Sequence[CellResult], states: Sequence[str]) -> list[CellResult]:
    """Return the episodes in the order of ``states``; each must be there once, and no other."""
    by_state = {cell.initial_state_id: cell for cell in cells}
    counts = Counter(cell.initial_state_id for cell in cells)
    missing = [state for state in states if state not in counts]
    wrong = [s for s, count in counts.items() if count > 1] + sorted(set(counts) - set(states))
    if missing or wrong:
        raise BadInputError(
            f"{path}: {_name(key)} lacks {len(missing)} of {len(states)} episodes and has {len(wrong)} too "
            f"many; see {(missing or wrong)[0]}",
            "Restore the file, or run the study again",
        )
    return [by_state[state] for state in states]


def _check_stages(
    study: Study, stages: Mapping[str, Any], episodes: Mapping[Key, Sequence[CellResult]], partial: bool
) -> None:
    """Refuse stages that are absent, or that say something else than the rows or each other."""
    for stage in list_stages(study):
        if stage.id not in stages:
            if not partial:
                raise BadInputError(f"{STAGES} lacks {stage.id}", "Restore it")
            continue
        result = stages[stage.id]["result"]
        if stage.kind != EVALUATE:
            continue
        successes = sum(cell.success for cell in episodes.get((stage.suite, stage.name, stage.seed), ()))
        if result["successes"] != successes:
            raise BadInputError(f"{stage.id}: {STAGES} and {EPISODES} differ in successes", "Restore both")
        for need in stage.needs:
            if stages[need]["result"]["version"] != result["version"]:
                raise BadInputError(f"{stage.id} is of another policy than {need}", "Run the study again")


def _curves(path: Path) -> dict[tuple[str, int], list[dict[str, float]]]:
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for row in _read_table(path):
        values = {name: float(row[name]) for name in ("step", *CURVE) if row[name]}
        found.setdefault((row["arm"], int(row["seed"])), []).append(values)
    return found


def _name(key: Key) -> str:
    suite, arm, seed = key
    return f"{suite}/{arm}-{seed}"
