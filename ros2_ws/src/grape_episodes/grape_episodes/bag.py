"""One rosbag2 recording (format version 9): one MCAP file, zstd chunks, flushed so that little is lost."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer

from grape_episodes import contract
from grape_episodes.messages import definition

FLUSH_SECONDS = 0.5  # a killed process loses at most this much
CHUNK_BYTES = 1 << 20
_FOREVER = {"sec": 9223372036, "nsec": 854775807}  # what ROS 2 writes for an infinite duration


@dataclass
class _Stream:
    channel_id: int
    type: str
    qos: list[dict[str, Any]]
    count: int = 0


def _qos(topic: str) -> list[dict[str, Any]]:
    """Return the offered QoS of a contract topic the way rosbag2 writes it; unknown topics have none."""
    known = {entry.name: entry.qos for entry in contract.topics().values()}
    if topic not in known:
        return []
    profile = contract.document()["qos"][known[topic]]
    return [
        {
            "history": "keep_last",
            "depth": profile["depth"],
            "reliability": profile["reliability"],
            "durability": profile["durability"],
            "deadline": dict(_FOREVER),
            "lifespan": dict(_FOREVER),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_FOREVER),
            "avoid_ros_namespace_conventions": False,
        }
    ]


class BagWriter:
    """Writes serialised messages to ``path``; not thread-safe.

    Args:
        path: The MCAP file; must not exist.
        name: The file's name in ``metadata.yaml`` if it will be renamed.

    Raises:
        OSError: From any method when the disk refuses (full, gone, read-only).
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._path = path
        self._name = name or path.name
        self._file = path.open("xb")
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="grape_episodes")
        self._schemas: dict[str, int] = {}
        self._streams: dict[str, _Stream] = {}
        self._first_ns: int | None = None
        self._last_ns = 0
        self._flushed = time.monotonic()

    def write(self, topic: str, type_name: str, data: bytes, stamp_ns: int) -> None:
        """Append one message received at ``stamp_ns``."""
        stream = self._streams.get(topic) or self._add_stream(topic, type_name)
        self._writer.add_message(stream.channel_id, stamp_ns, data, stamp_ns, stream.count)
        stream.count += 1
        self._first_ns = stamp_ns if self._first_ns is None else min(self._first_ns, stamp_ns)
        self._last_ns = max(self._last_ns, stamp_ns)
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the operating system, as whole chunks."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def finish(self) -> str:
        """Write the index and ``metadata.yaml``, sync both to disk and return the file's sha256."""
        information = self._information()
        self._writer.add_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(information)})
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        text = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)
        write_durably(self._path.with_name("metadata.yaml"), text)
        return sha256(self._path)

    def discard(self) -> None:
        """Close the file as it is, with no index: for use after an error."""
        self._file.raw.close()

    def _add_stream(self, topic: str, type_name: str) -> _Stream:
        text, type_hash = definition(type_name)
        if type_name not in self._schemas:
            self._schemas[type_name] = self._writer.register_schema(type_name, "ros2msg", text.encode())
        qos = _qos(topic)
        metadata = {"offered_qos_profiles": yaml.safe_dump(qos), "topic_type_hash": type_hash}
        channel = self._writer.register_channel(topic, "cdr", self._schemas[type_name], metadata)
        self._streams[topic] = _Stream(channel, type_name, qos)
        return self._streams[topic]

    def _information(self) -> dict[str, Any]:
        """Return rosbag2's metadata, version 9."""
        start = self._first_ns or 0
        duration = {"nanoseconds": max(0, self._last_ns - start)}
        count = sum(stream.count for stream in self._streams.values())
        start_of = {"nanoseconds_since_epoch": start}
        return {
            "version": 9,
            "storage_identifier": "mcap",
            "duration": dict(duration),
            "starting_time": dict(start_of),
            "message_count": count,
            "topics_with_message_count": [_topic_entry(*item) for item in self._streams.items()],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._name],
            "files": [
                {
                    "path": self._name,
                    "starting_time": dict(start_of),
                    "duration": dict(duration),
                    "message_count": count,
                }
            ],
            "custom_data": None,
            "ros_distro": "jazzy",
        }


def _topic_entry(topic: str, stream: _Stream) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic,
            "type": stream.type,
            "serialization_format": "cdr",
            "offered_qos_profiles": stream.qos,
            "type_description_hash": definition(stream.type)[1],
        },
        "message_count": stream.count,
    }


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_durably(path: Path, text: str) -> None:
    """Write a text file atomically and sync it to disk."""
    part = path.with_name(path.name + ".tmp")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries, so that names created or renamed in it survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
