"""The list of all episodes in one SQLite file; everything in it can be rebuilt from the episode folders."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from grape_episodes.manifest import MANIFEST_NAME, PART_SUFFIX, read_manifest
from grape_episodes.types import EpisodeError, EpisodeManifest

BUSY_SECONDS = 10.0  # recorder, scorer and trainer may write at the same time
_TABLE = """
CREATE TABLE IF NOT EXISTS episodes (
    episode_id TEXT PRIMARY KEY, folder TEXT NOT NULL, task TEXT NOT NULL, initial_state_id TEXT NOT NULL,
    policy_version TEXT NOT NULL, temperature REAL NOT NULL, seed INTEGER NOT NULL, outcome TEXT NOT NULL,
    success INTEGER NOT NULL, steps INTEGER NOT NULL, started TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_group ON episodes (task, initial_state_id);
"""
_COLUMNS = """episode_id, folder, task, initial_state_id, policy_version, temperature, seed, outcome, success,
steps, started"""


@dataclass(frozen=True)
class Entry:
    """One episode as the catalogue lists it."""

    episode_id: str
    folder: Path
    task: str
    initial_state_id: str
    policy_version: str
    temperature: float
    seed: int
    outcome: str
    success: bool
    steps: int
    started: str


class Catalogue:
    """Lists episodes; safe to use from several processes at once.

    Folders are stored relative to the catalogue's own, so that a data folder can be moved.

    Args:
        path: The SQLite file; created when absent.

    Raises:
        EpisodeError: From any method when the file is no catalogue or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path).absolute()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_TABLE)

    def add(self, manifest: EpisodeManifest, folder: Path) -> None:
        """Add a finished episode; adding it again changes nothing."""
        with self._database() as database:
            _insert(database, manifest, self._relative(folder))

    def remove(self, episode_id: str) -> None:
        """Take an episode off the list; its folder stays."""
        with self._database() as database:
            database.execute("DELETE FROM episodes WHERE episode_id = ?", (episode_id,))

    def episodes(
        self,
        *,
        task: str | None = None,
        policy_version: str | None = None,
        initial_state_id: str | None = None,
    ) -> list[Entry]:
        """Return the episodes that match all given fields, oldest first."""
        wanted = {"task": task, "policy_version": policy_version, "initial_state_id": initial_state_id}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = :{name}" for name in given) or "1"
        query = f"SELECT {_COLUMNS} FROM episodes WHERE {where} ORDER BY started, episode_id"
        with self._database() as database:
            return [self._entry(row) for row in database.execute(query, given)]

    def groups(self) -> dict[tuple[str, str], list[Entry]]:
        """Return the episodes by (task, initial_state_id): only those of one group may be compared."""
        groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.episodes():
            groups[entry.task, entry.initial_state_id].append(entry)
        return dict(groups)

    def rebuild(self, root: Path) -> list[EpisodeError]:
        """List anew all finished episodes in the folders of ``root``; return the errors of those left out."""
        manifests, errors = [], []
        for path in sorted(Path(root).glob(f"*/{MANIFEST_NAME}")):
            if path.parent.name.endswith(PART_SUFFIX):
                continue
            try:
                manifests.append((read_manifest(path.parent), path.parent))
            except EpisodeError as error:
                errors.append(error)
        with self._database() as database:
            database.execute("DELETE FROM episodes")
            for manifest, folder in manifests:
                _insert(database, manifest, self._relative(folder))
        return errors

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside one transaction."""
        try:
            with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as database, database:
                yield database
        except sqlite3.Error as error:
            remedy = "Delete the file and rebuild it from the episode folders, or free disk space."
            raise EpisodeError(f"The catalogue cannot be used: {error}", self._path, remedy) from error

    def _relative(self, folder: Path) -> str:
        return os.path.relpath(Path(folder).absolute(), self._path.parent)

    def _entry(self, row: tuple[str, str, str, str, str, float, int, str, int, int, str]) -> Entry:
        folder = Path(os.path.normpath(self._path.parent / row[1]))
        return Entry(row[0], folder, *row[2:8], bool(row[8]), *row[9:])


def _insert(database: sqlite3.Connection, manifest: EpisodeManifest, folder: str) -> None:
    row = (
        manifest.episode_id,
        folder,
        manifest.task,
        manifest.initial_state_id,
        manifest.policy_version,
        manifest.temperature,
        manifest.seed,
        manifest.outcome,
        manifest.success,
        manifest.steps,
        manifest.started,
    )
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT OR REPLACE INTO episodes ({_COLUMNS}) VALUES ({marks})", row)
