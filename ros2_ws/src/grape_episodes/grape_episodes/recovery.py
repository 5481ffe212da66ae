"""Recovers an episode whose recording was cut off, up to the last whole message on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from grape_episodes import contract, messages
from grape_episodes.bag import BagWriter
from grape_episodes.manifest import PART_SUFFIX, read_manifest, save_manifest
from grape_episodes.types import EpisodeError
from grape_episodes.writer import publish

_REMEDY = "Delete the folder."


def recover(part: Path) -> Path:
    """Turn ``<episode_id>.part`` into a finished, aborted episode and return its folder.

    Killed on the way, it can simply be run again.

    Raises:
        EpisodeError: The folder is no unfinished episode, or holds no whole message.
    """
    part = Path(part)
    if not part.name.endswith(PART_SUFFIX) or not part.is_dir():
        raise EpisodeError("Not the folder of an unfinished episode (*.part)", part, "Check the path.")
    manifest = read_manifest(part)
    damaged = part / f"{manifest.episode_id}_0.mcap"
    rescued = part / f"{manifest.episode_id}_0.mcap.rescued"
    rescued.unlink(missing_ok=True)
    bag, steps, count = BagWriter(rescued, damaged.name), 0, 0
    for topic, type_name, message in _whole_messages(damaged):
        bag.write(topic, type_name, message.data, message.log_time)
        count += 1
        if topic in contract.step_topics():
            steps += messages.deserialize(message.data, type_name).episode_id == manifest.episode_id
    if count == 0:
        bag.discard()
        rescued.unlink()
        raise EpisodeError("No whole message is left of this episode", part, _REMEDY)
    digest = bag.finish()
    rescued.replace(damaged)
    reason = (
        manifest.reason if manifest.files else f"recovered after the recording was cut off ({count} messages)"
    )
    save_manifest(
        part, dataclasses.replace(manifest, steps=steps, reason=reason, files={damaged.name: digest})
    )
    folder = part.with_name(manifest.episode_id)
    publish(part, folder)
    return folder


def _whole_messages(path: Path) -> Iterator[tuple[str, str, Message]]:
    """Yield (topic, type, message) up to the first byte that cannot be read."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        records = StreamReader(stream, validate_crcs=True).records
        while True:
            try:
                record = next(records)
            except Exception:  # the cut: whatever the parser makes of it
                return
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                yield channel.topic, schemas[channel.schema_id].name, record
