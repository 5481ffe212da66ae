"""Sets odd episodes aside: moved below ``quarantine/`` with the reason beside them, never deleted."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from grape_episodes.bag import sync_folder, write_durably
from grape_episodes.stop_reasons import StopReason
from grape_episodes.types import EpisodeError

FOLDER_NAME = "quarantine"
NOTE_NAME = "quarantine.json"


def quarantine(folder: Path, reason: StopReason, message: str) -> Path:
    """Move an episode's folder to ``quarantine/`` beside it and return where it is now.

    Killed on the way, the folder is in one of the two places, whole.

    Raises:
        EpisodeError: The disk refuses.
    """
    target = folder.parent / FOLDER_NAME / folder.name
    note = {"reason": str(reason), "message": message, "time": datetime.now(UTC).isoformat()}
    try:
        write_durably(folder / NOTE_NAME, json.dumps(note, indent=2) + "\n")
        target.parent.mkdir(exist_ok=True)
        os.rename(folder, target)
        sync_folder(target.parent)
        sync_folder(folder.parent)
    except OSError as error:
        what = f"Cannot set the episode aside: {error.strerror or error}"
        raise EpisodeError(what, folder, "Free disk space, or move the folder by hand.") from error
    return target


def read_note(folder: Path) -> dict[str, str]:
    """Return reason, message and time of an episode in quarantine.

    Raises:
        EpisodeError: The note is absent or damaged.
    """
    path = folder / NOTE_NAME
    try:
        note: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"The note cannot be read: {error}", path, "Delete the folder.") from error
    return note
