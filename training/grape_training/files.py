"""Files that are whole or absent: atomic JSON, resumable JSON lines, content hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grape_training.errors import BadInputError

TRAINING_CURVE = "training_curve.jsonl"  # beside a checkpoint's weights: how it was trained


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader (or a power cut) sees the old file or the new one, never half of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` as :func:`write_text` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, remedy: str = "Delete the file or restore it from a backup") -> Any:
    """Read a JSON file.

    Raises:
        BadInputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist", remedy) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is damaged ({error})", remedy) from error


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line in a single write, durable when the call returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, sort_keys=True) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; a torn last line (the process was killed) is cut off the file.

    Raises:
        BadInputError: a line other than the last one is damaged.
    """
    if not path.exists():
        return []
    rows, good = [], 0
    data = path.read_bytes()
    for line in data.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise BadInputError(
                f"{path} is damaged at byte {good} ({error})", "Delete it to start anew"
            ) from error
        good += len(line)
    if good < len(data):
        os.truncate(path, good)
    return rows


def hash_json(document: Any) -> str:
    """Return the SHA-256 (hex) of ``document`` in canonical JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def hash_folder(folder: Path) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` of every visible file below ``folder``."""
    return {str(path.relative_to(folder)): hash_file(path) for path in _contents(folder)}


def hash_sources(package: Path) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` of a package's modules and YAML files."""
    return {name: sha for name, sha in hash_folder(package).items() if name.endswith((".py", ".yaml"))}
