"""Writes episodes: message by message (:class:`EpisodeWriter`) or whole from arrays (:func:`write_episode`).

``<root>/<episode_id>.part/`` is renamed to ``<root>/<episode_id>/`` when everything in it is on disk, so
a folder without the suffix is always complete.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grape_episodes import contract, messages
from grape_episodes.bag import BagWriter, sync_folder
from grape_episodes.manifest import PART_SUFFIX, check_manifest, save_manifest
from grape_episodes.stop_reasons import StopReason
from grape_episodes.types import Episode, EpisodeError, EpisodeManifest
from grape_episodes.validation import check_episode


class EpisodeWriter:
    """Writes one episode from serialised messages; not thread-safe.

    Args:
        root: Folder of all episodes; created when absent.
        manifest: The episode's start, from :func:`grape_episodes.manifest.start_manifest`.

    Raises:
        EpisodeError: The episode exists already, the manifest is not valid, or the disk refuses. After a
            refusal by the disk the ``.part`` folder stays and can be recovered.
    """

    def __init__(self, root: Path, manifest: EpisodeManifest) -> None:
        check_manifest(manifest, root)
        self.manifest = manifest
        self.folder = Path(root) / manifest.episode_id
        self.part = self.folder.with_name(self.folder.name + PART_SUFFIX)
        if self.folder.exists():
            raise EpisodeError("The episode exists already", self.folder, "Choose another episode id.")
        with self._disk():
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.part.mkdir()
            # True until the episode ends. Not synced: on a busy disk that takes seconds, and images wait.
            save_manifest(self.part, _cut_off(manifest), durable=False)
            self._bag = BagWriter(self.part / f"{manifest.episode_id}_0.mcap")
        self._step_topics = contract.step_topics()
        self.steps = 0

    def write_raw(self, topic: str, type_name: str, data: bytes, stamp_ns: int) -> None:
        """Append one message as CDR bytes, received at ``stamp_ns``."""
        with self._disk():
            self._bag.write(topic, type_name, data, stamp_ns)
        if topic in self._step_topics:
            self.steps += messages.deserialize(data, type_name).episode_id == self.manifest.episode_id

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        with self._disk():
            self._bag.flush()

    def finish(
        self,
        *,
        outcome: str,
        success: bool,
        grasped: bool = False,
        collisions: int = 0,
        reason: str = "",
        stop_reason: str = "",
    ) -> Path:
        """Close the episode with its outcome; return its folder, which is on disk by then."""
        manifest = dataclasses.replace(
            self.manifest,
            outcome=outcome,
            success=bool(success),
            grasped=bool(grasped),
            collisions=int(collisions),
            reason=reason,
            stop_reason=stop_reason,
            steps=self.steps,
        )
        check_manifest(manifest, self.part)
        with self._disk():
            digest = self._bag.finish()
            files = {f"{manifest.episode_id}_0.mcap": digest}
            save_manifest(self.part, dataclasses.replace(manifest, files=files))
            publish(self.part, self.folder)
        return self.folder

    def abort(self, reason: str) -> Path:
        """Close the episode as aborted; what was recorded is kept."""
        return self.finish(outcome="aborted", success=False, reason=reason, stop_reason=StopReason.CANCELLED)

    def discard(self) -> None:
        """Delete the episode: for one that never began."""
        self._bag.discard()
        shutil.rmtree(self.part, ignore_errors=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn a refusal of the disk into an :class:`EpisodeError` and let go of the file."""
        try:
            yield
        except FileExistsError as error:
            remedy = "Recover it with grape_episodes.recovery.recover, or delete it."
            raise EpisodeError("An unfinished recording is in the way", self.part, remedy) from error
        except OSError as error:
            if hasattr(self, "_bag"):
                self._bag.discard()
            what = f"Cannot write the episode: {error.strerror or error}"
            remedy = "Free disk space or choose another folder; what was written so far can be recovered."
            raise EpisodeError(what, self.part, remedy) from error


def _cut_off(manifest: EpisodeManifest) -> EpisodeManifest:
    return dataclasses.replace(
        manifest,
        outcome="aborted",
        success=False,
        reason="the recording was cut off",
        stop_reason=StopReason.CUT_OFF,
        steps=0,
        files={},
    )


def publish(part: Path, folder: Path) -> None:
    """Give a finished ``.part`` folder its final name, durably."""
    sync_folder(part)
    os.rename(part, folder)
    sync_folder(folder.parent)


def write_episode(root: Path, episode: Episode) -> Path:
    """Write a whole episode from arrays, in the recorder's format; return its folder.

    Reading it back gives equal arrays. ``episode.manifest`` carries the outcome; its ``steps`` and
    ``files`` are filled in.

    Raises:
        EpisodeError: The arrays do not fit together, the episode exists already, or the disk refuses.
    """
    check_episode(episode, root)
    writer = EpisodeWriter(root, episode.manifest)
    for topic_key, message, stamp in episode_messages(episode):
        topic = contract.topics()[topic_key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    manifest = episode.manifest
    return writer.finish(
        outcome=manifest.outcome,
        success=manifest.success,
        grasped=manifest.grasped,
        collisions=manifest.collisions,
        reason=manifest.reason,
        stop_reason=manifest.stop_reason,
    )


def episode_messages(episode: Episode) -> Iterator[tuple[str, Any, int]]:
    """Yield (contract key, message, stamp) in the order in which a robot would have published them."""
    frames = contract.document()["frames"]
    stamps = [int(stamp) for stamp in episode.stamps_ns]
    yield "camera_info", messages.camera_info(episode.camera, stamps[0], frames["camera"]), stamps[0]
    for index, stamp in enumerate(stamps):
        joints = messages.joint_state(episode.joint_names, episode.joint_positions[index], stamp)
        yield "joint_states", joints, stamp
        position, quaternion = episode.end_effector_positions[index], episode.end_effector_quaternions[index]
        yield "end_effector_pose", messages.pose(position, quaternion, stamp, frames["base"]), stamp
        yield "color_image", messages.color_image(episode.images[index], stamp, frames["camera"]), stamp
        if episode.depths is not None:
            yield "depth_image", messages.depth_image(episode.depths[index], stamp, frames["camera"]), stamp
        if index < episode.steps:
            yield "action", _action(episode, index), stamp


def _action(episode: Episode, step: int) -> Any:
    return messages.action_delta(
        episode_id=episode.manifest.episode_id,
        step=step,
        action=episode.actions[step],
        token_ids=episode.token_ids[step],
        log_probabilities=episode.log_probabilities[step],
        policy_version=episode.policy_versions[step],
        stamp=int(episode.stamps_ns[step]),
        frame=contract.document()["frames"]["base"],
    )
