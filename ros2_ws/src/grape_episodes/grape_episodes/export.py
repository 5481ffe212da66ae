"""Episodes as pictures and short films (WebP) for people to look at."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grape_episodes.types import Episode

SPEED = 2.0  # films run this much faster than the robot did
_LONGEST_FRAME_MS = 2000  # a pause of the robot is not worth more of the viewer's time
_LAST_FRAME_MS = 1200  # hold the final image before the film starts again


def encode_picture(image: np.ndarray, *, width: int | None = None, quality: int = 80) -> bytes:
    """Return an RGB image (H, W, 3) uint8 as WebP, scaled down to ``width`` px if given."""
    buffer = io.BytesIO()
    _scaled(image, width).save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def encode_film(episode: Episode, *, width: int = 320, quality: int = 60) -> bytes:
    """Return the episode's images as an endless animated WebP at ``SPEED`` times the recorded pace."""
    frames = [_scaled(image, width) for image in episode.images]
    pauses = np.diff(episode.stamps_ns) / 1e6 / SPEED
    durations = [int(np.clip(pause, 20, _LONGEST_FRAME_MS)) for pause in pauses] + [_LAST_FRAME_MS]
    return animate(frames, durations, quality)


def animate(frames: Sequence[Image.Image], durations: Sequence[int], quality: int = 60) -> bytes:
    """Return ``frames``, each shown for its milliseconds of ``durations``, as an endless WebP."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=list(durations),
        loop=0,
        quality=quality,
        method=2,
    )
    return buffer.getvalue()


def write_film(episode: Episode, path: Path, *, width: int = 320) -> Path:
    """Write the episode's film to ``path`` (``.webp``), atomically; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    part.write_bytes(encode_film(episode, width=width))
    os.replace(part, path)
    return path


def _scaled(image: np.ndarray, width: int | None) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    if width is None or width == picture.width:
        return picture
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
