"""Reads and writes ``episode.json``, and makes episode ids."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from grape_episodes import contract
from grape_episodes.bag import write_durably
from grape_episodes.stop_reasons import StopReason
from grape_episodes.types import OUTCOMES, SOURCES, EpisodeError, EpisodeManifest, Extrinsics

MANIFEST_NAME = "episode.json"
PART_SUFFIX = ".part"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_ADAPTER = TypeAdapter(EpisodeManifest)


def new_episode_id(initial_state_id: str) -> str:
    """Return a fresh id that sorts by time, e.g. ``20260314T150926123456-stack_cube-train-0042-9f3a``."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    state = re.sub(r"[^A-Za-z0-9_]+", "-", initial_state_id).strip("-")[:80]
    return f"{now}-{state}-{secrets.token_hex(2)}"


def start_manifest(
    *,
    episode_id: str,
    task: str,
    instruction: str,
    initial_state_id: str,
    policy_version: str,
    temperature: float,
    seed: int,
    source: str,
    extrinsics: Extrinsics | None = None,
) -> EpisodeManifest:
    """Return the manifest of an episode that starts now.

    ``extrinsics`` says where the camera is; None: where the contract has it.

    Raises:
        EpisodeError: A field is empty, not finite, or an id that cannot be a folder's name.
    """
    pose = contract.document()["camera"]["extrinsics"]
    nominal = Extrinsics(tuple(pose["translation"]), tuple(pose["quaternion_xyzw"]))
    manifest = EpisodeManifest(
        episode_id=episode_id,
        task=task,
        instruction=instruction,
        initial_state_id=initial_state_id,
        policy_version=policy_version,
        temperature=float(temperature),
        seed=int(seed),
        source=source,
        started=datetime.now(UTC).isoformat(timespec="microseconds"),
        extrinsics=extrinsics or nominal,
        contract_version=int(contract.document()["version"]),
    )
    check_manifest(manifest, "the request")
    return manifest


def check_manifest(manifest: EpisodeManifest, where: object) -> None:
    """Refuse a manifest whose fields cannot be true.

    Raises:
        EpisodeError: Names the field.
    """
    problems = {
        "episode_id": not _ID.fullmatch(manifest.episode_id) or manifest.episode_id.endswith(PART_SUFFIX),
        "task": not manifest.task,
        "initial_state_id": not manifest.initial_state_id,
        "temperature": not (math.isfinite(manifest.temperature) and manifest.temperature >= 0.0),
        "outcome": manifest.outcome not in OUTCOMES,
        "stop_reason": manifest.stop_reason not in set(StopReason),
        "source": manifest.source not in SOURCES,
        "steps": manifest.steps < 0,
        "collisions": manifest.collisions < 0,
        "files": any(Path(name).name != name for name in manifest.files),
    }
    for name, bad in problems.items():
        if bad:
            value = getattr(manifest, name)
            remedy = "Use letters, digits, '_', '-' and '.' for ids; leave no field empty or not finite."
            raise EpisodeError(f"The field {name} of the episode is not valid: {value!r}", where, remedy)
    supported = int(contract.document()["version"])
    if manifest.contract_version > supported:
        what = (
            f"The episode follows version {manifest.contract_version} of the contract, this code {supported}"
        )
        raise EpisodeError(what, where, "Update this software.")


def save_manifest(folder: Path, manifest: EpisodeManifest, *, durable: bool = True) -> None:
    """Write ``episode.json`` into the folder; ``durable``: atomically and synced to disk."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if durable:
        write_durably(folder / MANIFEST_NAME, text)
    else:
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> EpisodeManifest:
    """Return the manifest of an episode folder.

    Raises:
        EpisodeError: The file is absent, is not JSON, or has a field that is missing, unknown or not valid.
    """
    path = Path(folder) / MANIFEST_NAME
    remedy = "Delete the folder, or restore it from a copy."
    try:
        manifest = _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise EpisodeError(f"Cannot read the episode's manifest: {error.strerror}", path, remedy) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "the file"
        raise EpisodeError(
            f"The episode's manifest is damaged: {name}: {first['msg']}", path, remedy
        ) from error
    check_manifest(manifest, path)
    return manifest
