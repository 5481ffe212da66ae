"""What a collection left behind: is anything lost, run twice, unreadable or unexplained?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from grape_episodes.catalogue import Catalogue, Entry
from grape_episodes.manifest import PART_SUFFIX, read_manifest
from grape_episodes.quarantine import FOLDER_NAME, read_note
from grape_episodes.reader import read_episode
from grape_episodes.stop_reasons import MEANINGS, StopReason
from grape_episodes.types import EpisodeError
from grape_policy.collection import journal, session
from grape_policy.collection.journal import Attempt, Journal
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.task_list import TaskList


def check_episodes(root: Path, wanted: TaskList, started: list[str]) -> dict[str, Any]:
    """Compare folders, catalogue and journal with the plan and with the episodes that were seen to begin.

    Returns:
        ``lost``: what began and is nowhere, or a rollout without an episode and without a reason;
        ``problems``: what is wrong otherwise, in words; ``counts``.
    """
    book = Journal(root / session.FOLDER / wanted.name / journal.NAME, wanted.temperature)
    entries = Catalogue(root / session.CATALOGUE_NAME).episodes()
    kept, set_aside = _folders(root), _folders(root / FOLDER_NAME)
    lost = [name for name in started if not {name, name + PART_SUFFIX} & {*kept, *set_aside}]
    problems = [f"unfinished: {name}" for name in kept if name.endswith(PART_SUFFIX)]
    problems += _catalogue_problems(entries, kept)
    problems += [problem for entry in entries for problem in _episode_problems(entry)]
    problems += [problem for name in set_aside for problem in _note_problems(root / FOLDER_NAME / name)]
    problems += [f"{a.episode_id or a.rollout}: no reason" for a in book.attempts if not _explained(a)]
    given_up = 0
    for rollout in wanted.plan():
        episodes, reason = _outcome(rollout, entries, book)
        given_up += not episodes and bool(reason)
        if not episodes and not reason:
            lost.append(f"rollout {rollout}")
        if episodes > 1:
            problems.append(f"run twice: {rollout}")
    reasons = Counter(a.stop_reason for a in book.attempts if a.stop_reason)
    counts = {
        "planned": len(wanted.plan()),
        "kept": len(entries),
        "given_up": given_up,
        "set_aside": len(set_aside),
        "recoveries": _recoveries(book),
        "stops": dict(sorted(reasons.items())),
    }
    return {"lost": lost, "problems": problems, "counts": counts}


def _folders(root: Path) -> set[str]:
    if not root.exists():
        return set()
    no_episodes = {session.FOLDER, FOLDER_NAME, "logs"}
    return {path.name for path in root.iterdir() if path.is_dir()} - no_episodes


def _catalogue_problems(entries: list[Entry], kept: set[str]) -> list[str]:
    listed = {entry.episode_id for entry in entries}
    finished = {name for name in kept if not name.endswith(PART_SUFFIX)}
    unlisted = [f"not in the catalogue: {name}" for name in sorted(finished - listed)]
    return unlisted + [f"in the catalogue only: {name}" for name in sorted(listed - finished)]


def _episode_problems(entry: Entry) -> list[str]:
    """Return what is wrong with a kept episode: it must be readable, valid and explained."""
    try:
        manifest = read_episode(entry.folder).manifest
    except EpisodeError as error:
        return [str(error)]
    explained = manifest.outcome in ("success", "failure") or manifest.stop_reason in set(MEANINGS)
    return [] if explained else [f"{entry.episode_id}: {manifest.outcome} without a reason"]


def _note_problems(folder: Path) -> list[str]:
    """Return what is wrong with an episode set aside: its note must name a reason, its manifest be whole."""
    try:
        note = read_note(folder)
        if not folder.name.endswith(PART_SUFFIX):
            read_manifest(folder)
    except EpisodeError as error:
        return [str(error)]
    return [] if note["reason"] in set(MEANINGS) else [f"{folder}: unknown reason {note['reason']!r}"]


def _explained(attempt: Attempt) -> bool:
    return attempt.accepted or (attempt.stop_reason in set(StopReason) and bool(attempt.stop_reason))


def _outcome(rollout: Rollout, entries: list[Entry], book: Journal) -> tuple[int, str]:
    """Return how many kept episodes a rollout has, and why it was last not kept."""
    same = [e for e in entries if Rollout(e.task, e.initial_state_id, e.seed) == rollout]
    failed = [a.stop_reason for a in book.attempts if a.rollout == rollout and not a.accepted]
    return len(same), failed[-1] if failed else ""


def _recoveries(book: Journal) -> int:
    """Return how many rollouts were kept after an attempt that was not."""
    failed: set[Rollout] = set()
    recovered = 0
    for attempt in book.attempts:
        if attempt.accepted:
            recovered += attempt.rollout in failed
        else:
            failed.add(attempt.rollout)
    return recovered
