"""Plays one of our own episodes as if a camera saw it now."""

from __future__ import annotations

import time
from pathlib import Path

from grape_episodes.reader import read_episode
from grape_episodes.types import EpisodeError

from grape_policy.camera.types import (
    CameraSettingsError,
    Clock,
    EndOfPlayback,
    Intrinsics,
    RawFrame,
)


class EpisodeSource:
    """The images and depths of an episode, one per action and the last, once.

    Args:
        folder: the episode's folder.
        real_time: with the recorded intervals; else as fast as the frames are taken.

    Raises:
        CameraSettingsError: no readable episode.
    """

    def __init__(self, folder: Path, real_time: bool = True) -> None:
        try:
            self._episode = read_episode(folder)
        except EpisodeError as error:
            raise CameraSettingsError(str(error)) from error
        camera = self._episode.camera
        self.name = f"episode {folder.name}"
        self.intrinsics = Intrinsics(camera.width, camera.height, camera.intrinsics)
        self._real_time, self._next, self._start = real_time, 0, time.monotonic()

    def read(self, timeout: float) -> RawFrame | None:
        """Return the next frame when it is due; see :class:`Source`."""
        episode, index = self._episode, self._next
        if index == len(episode.images):
            raise EndOfPlayback
        since_start = float(episode.stamps_ns[index] - episode.stamps_ns[0]) * 1e-9
        wait = self._start + since_start - time.monotonic() if self._real_time else 0.0
        time.sleep(min(max(wait, 0.0), timeout))
        if wait > timeout:
            return None
        self._next += 1
        depth = None if episode.depths is None else episode.depths[index]
        return RawFrame(episode.images[index], depth, index, since_start * 1e3, Clock.ARRIVAL)

    def close(self) -> None:
        """Let go of the arrays."""
        self._next = len(self._episode.images)
