"""The audit folder of every question to a model, and the cache of accepted answers.

A question's folder appears whole (``request.json`` and the images) before anything is sent; ``answer.txt``
and ``verdict.json`` follow when it is over. A folder without a verdict belongs to a run that was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grape_preference.vlm import Question, Reply, VlmModel
from grape_preference.vlm_json import AnswerError, parse_json

MAX_CACHED_BYTES = 1024 * 1024


def question_key(model: VlmModel, question: Question) -> str:
    """Return the SHA-256 (hex) of model, prompts, images and schema: what an answer depends on."""
    parts = {
        "model": model.name,
        "system": question.system,
        "prompt": question.prompt,
        "schema": question.schema,
        "images": [image_hash(image.tobytes() + repr(image.shape).encode()) for image in question.images],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


def image_hash(data: bytes) -> str:
    """Return the SHA-256 (hex) of an image's bytes."""
    return hashlib.sha256(data).hexdigest()


class Audit:
    """One question's folder below ``root``, named by time, kind and key."""

    def __init__(self, root: Path, model: VlmModel, question: Question, key: str) -> None:
        """Write what is about to be asked; the folder appears whole or not at all."""
        self._model = model
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S_%f}-{question.kind}-{key[:8]}-{secrets.token_hex(2)}"
        self.folder = root / name
        partial = root / f".{name}.partial"
        partial.mkdir(parents=True)
        images = question.png_images()
        for number, png in enumerate(images, start=1):
            (partial / f"image_{number}.png").write_bytes(png)
        request = {
            "time": now.isoformat(),
            "model": model.name,
            "place": model.place,
            "key": key,
            "kind": question.kind,
            "system": question.system,
            "prompt": question.prompt,
            "schema": question.schema,
            "images": {f"image_{n}.png": image_hash(png) for n, png in enumerate(images, start=1)},
        }
        self._write(partial / "request.json", json.dumps(request, indent=1))
        os.replace(partial, self.folder)

    def close(self, answer: str, verdict: dict[str, Any]) -> None:
        """Write the raw answer and the verdict."""
        self._write(self.folder / "answer.txt", answer)
        self._write(self.folder / "verdict.json", json.dumps(verdict, indent=1))

    def _write(self, path: Path, text: str) -> None:
        write_whole(path, self._model.scrub(text))


class AnswerCache:
    """Accepted answers by key, one file each; a damaged file counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """Return the stored reply of ``key``; the caller checks its text like a fresh one."""
        path = self.folder / f"{key}.json"
        try:
            if path.stat().st_size > MAX_CACHED_BYTES:
                return None
            document = parse_json(path.read_text(encoding="utf-8"))
            return Reply(str(document["text"]), int(document["tokens"]))
        except (OSError, AnswerError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, text: str, tokens: int) -> None:
        """Store a reply."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{key}.json", json.dumps({"text": text, "tokens": tokens}))


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
