"""What a camera hands over, whatever is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np


class CameraError(RuntimeError):
    """The camera is not there or stopped delivering; trying again may help. The message says why."""


class CameraSettingsError(ValueError):
    """The camera can never run as asked; the message says which setting, why, and what to use instead."""


class EndOfPlayback(Exception):
    """The recording or the episode has been played to its end."""


class Clock(Enum):
    """What a frame's time of capture counts from."""

    DEVICE = "device"  # the camera's own counter: arbitrary origin, may wrap, drifts
    HOST = "host"  # this machine's system time, or the camera's translated into it by the SDK
    ARRIVAL = "arrival"  # no time of its own: it is stamped when it comes


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model of the colour image: size (px), K (3, 3), distortion (5,) and its ROS model name."""

    width: int
    height: int
    matrix: np.ndarray
    distortion: tuple[float, ...] = (0.0,) * 5
    model: str = "plumb_bob"


@dataclass(frozen=True)
class RawFrame:
    """One frame as the source gives it; the arrays may be views that live as long as the frame.

    Attributes:
        colour: uint8 (H, W, 3) RGB.
        depth: uint16 (H, W) mm in the pixels of the colour image, 0: unknown; None: no depth of this moment.
        number: the source's frame counter.
        time_ms: time of capture in ms of ``clock``.
    """

    colour: np.ndarray
    depth: np.ndarray | None
    number: int
    time_ms: float
    clock: Clock


class Source(Protocol):
    """An open camera. ``read`` and ``close`` are called from one thread."""

    name: str
    intrinsics: Intrinsics

    def read(self, timeout: float) -> RawFrame | None:
        """Return the next frame, or None when none came within ``timeout`` s.

        Raises:
            CameraError: the camera is gone.
            EndOfPlayback: there is nothing more to play.
        """
        ...

    def close(self) -> None:
        """Stop streaming and free the device."""
        ...
