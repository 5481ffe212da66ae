"""The registry of policy versions: immutable folders, one atomic pointer to the current one, a way back.

Layout below the root::

    versions/<name>-<hash8>/   a peft adapter folder or a full checkpoint folder, and manifest.json
    current.json               {"version": ..., "history": [{"version", "action", "reason", "time"}, ...]}

Nothing becomes current but the first version (there is no incumbent to compare with), a version the gate let
through, or the version before (rollback).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grape_training.errors import BadInputError, UserError
from grape_training.files import hash_folder, read_json, write_json
from grape_training.gate import Decision

MANIFEST = "manifest.json"
_IGNORED = shutil.ignore_patterns(".*", MANIFEST)
_NAME = re.compile(r"[A-Za-z0-9_.]{1,40}")


@dataclass(frozen=True)
class VersionManifest:
    """What a version is and where it came from.

    ``kind`` is ``adapter`` (peft layout, on top of the first of ``parents``) or ``checkpoint`` (complete).
    """

    version: str
    kind: str
    parents: tuple[str, ...]
    files: dict[str, str]
    data: dict[str, Any]
    metrics: dict[str, Any]
    code_version: str
    created: str


@dataclass
class Pointer:
    """The content of ``current.json``."""

    version: str | None = None
    history: list[dict[str, str]] = field(default_factory=list)


class Registry:
    """Versions below ``root``; the folder is created by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, version: str) -> Path:
        """Return the folder of ``version``.

        Raises:
            BadInputError: there is no such version.
        """
        folder = self.root / "versions" / version
        if Path(version).name != version or not (folder / MANIFEST).is_file():
            known = ", ".join(self.versions()) or "none"
            raise BadInputError(
                f"the registry {self.root} has no version {version!r}", f"Known versions: {known}"
            )
        return folder

    def versions(self) -> list[str]:
        """Return the names of all versions, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"versions/[!.]*/{MANIFEST}"))

    def manifest(self, version: str) -> VersionManifest:
        """Return the manifest of ``version``.

        Raises:
            BadInputError: unknown version or damaged manifest.
        """
        path = self.folder(version) / MANIFEST
        try:
            fields = read_json(path)
            return VersionManifest(**{**fields, "parents": tuple(fields["parents"])})
        except (TypeError, KeyError) as error:
            raise BadInputError(f"{path} is damaged ({error})", "Train the version again") from error

    def pointer(self) -> Pointer:
        """Return the current pointer; an empty one before the first promotion."""
        path = self.root / "current.json"
        if not path.exists():
            return Pointer()
        try:
            return Pointer(**read_json(path))
        except TypeError as error:
            raise BadInputError(
                f"{path} is damaged ({error})", "Delete it and promote a version again"
            ) from error

    @property
    def current(self) -> str | None:
        """The version in use, None before the first promotion."""
        return self.pointer().version

    def add(
        self,
        source: Path,
        name: str,
        *,
        parents: tuple[str, ...] = (),
        data: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> str:
        """Take the checkpoint or adapter folder ``source`` into the registry and return its version.

        The version is ``<name>-<first 8 hex of the content hash>``, the one that the policy reports when it
        runs (a checkpoint keeps the name in its config): adding the same content twice is a no-op. An
        adapter's first parent is the version it belongs on. Files are hard-linked where that is possible.

        Raises:
            BadInputError: ``source`` holds no checkpoint or adapter, ``name`` is no plain word, or the
                adapter has no complete checkpoint of this registry as its first parent.
        """
        if not _NAME.fullmatch(name):
            raise BadInputError(f"{name!r} is not a version name", "Use 1-40 letters, digits or _ .")
        kind = folder_kind(source)
        base = self._base(parents) if kind == "adapter" else None
        versions = self.root / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        partial = versions / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(source, partial, copy_function=_link, ignore=_IGNORED)
            if base is not None:
                _point_to_base(partial, base)
            version = _version(partial, name, base)
            manifest = VersionManifest(
                version=version,
                kind=kind,
                parents=parents,
                files=hash_folder(partial),
                data=data or {},
                metrics=metrics or {},
                code_version=code_version(),
                created=_now(),
            )
            write_json(partial / MANIFEST, asdict(manifest))
            if not (versions / version).exists():
                partial.replace(versions / version)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return version

    def _base(self, parents: tuple[str, ...]) -> Path:
        if not parents or self.manifest(parents[0]).kind != "checkpoint":
            raise BadInputError(
                f"an adapter needs a complete checkpoint as its parent, not {', '.join(parents) or 'none'}",
                "Add its base checkpoint to the registry first",
            )
        return self.folder(parents[0])

    def start(self, version: str) -> None:
        """Make ``version`` current in a registry that has no current version yet.

        Raises:
            UserError: there is a current version, so that a promotion needs the gate.
        """
        if self.current is not None:
            raise UserError(f"{self.current} is in use", "Promote through the gate: grape promote")
        self._switch(version, "start", "first version")

    def promote(self, version: str, decision: Decision) -> None:
        """Make ``version`` current if ``decision`` (of the gate, for this very pair of versions) allows it.

        Raises:
            UserError: the gate refused, or it judged other versions than these.
        """
        if (decision.candidate, decision.incumbent) != (version, self.current):
            raise UserError(
                f"the gate compared {decision.candidate} with {decision.incumbent}, "
                f"not {version} with {self.current}",
                "Evaluate the candidate against the current version",
            )
        if not decision.promote:
            raise UserError(f"{version} was not promoted: {decision.reason}", f"{self.current} stays in use")
        self._switch(version, "promote", decision.reason)

    def rollback(self, reason: str = "requested") -> str:
        """Go back to the version that was current before and return it.

        Raises:
            UserError: there is no earlier version.
        """
        previous = self.previous()
        if previous is None:
            raise UserError("there is no earlier version to go back to", "See `grape report` for the history")
        self._switch(previous, "rollback", reason)
        return previous

    def previous(self) -> str | None:
        """Return what a rollback would restore: repeated rollbacks walk back, never to and fro."""
        stack: list[str] = []
        for entry in self.pointer().history:
            if entry["action"] == "rollback":
                stack.pop()
            else:
                stack.append(entry["version"])
        return stack[-2] if len(stack) > 1 else None

    def _switch(self, version: str, action: str, reason: str) -> None:
        self.folder(version)
        pointer = self.pointer()
        entry = {"version": version, "action": action, "reason": reason, "time": _now()}
        write_json(self.root / "current.json", asdict(Pointer(version, [*pointer.history, entry])))


def folder_kind(folder: Path) -> str:
    """Return ``adapter`` or ``checkpoint`` for a folder that holds one.

    Raises:
        BadInputError: it holds neither.
    """
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "checkpoint"
    raise BadInputError(
        f"{folder} is neither a checkpoint (config.json, *.safetensors) nor an adapter (adapter_config.json)",
        "Give the folder that `grape train` wrote, or checkpoints/grape-small",
    )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _point_to_base(adapter: Path, base: Path) -> None:
    """Name the base in the adapter's config relative to it, so that the registry can be moved."""
    config = read_json(adapter / "adapter_config.json")
    config["base_model_name_or_path"] = f"../{base.name}"
    write_json(adapter / "adapter_config.json", config)


def _version(folder: Path, name: str, base: Path | None) -> str:
    from grape_policy.vla.checkpoint import read_config, version_of

    if base is not None:
        return str(version_of(name, [base, folder]))
    return str(version_of(read_config(folder).name, [folder]))


def code_version() -> str:
    """Return ``git describe`` of the source tree, or ``unknown`` outside a work tree."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
