"""Pictures for tables and objects, computed from a pattern, two colours and a fixed seed: no image files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from grape_sim.suite_types import Texture

SIZE = 256  # pixels a side
_SEED = 7


def picture(texture: Texture) -> np.ndarray:
    """Return the texture as RGB (256, 256, 3) uint8; the same description gives the same picture."""
    share = _PATTERNS[texture.pattern](texture.scale)[:, :, None]
    first, second = np.array(texture.colours)
    return np.asarray(np.rint(255.0 * ((1.0 - share) * first + share * second)), np.uint8)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates (x, y) in 0 .. 1."""
    axis = (np.arange(SIZE) + 0.5) / SIZE
    x, y = np.meshgrid(axis, axis)
    return x, y


def _noise(sigma: tuple[float, float]) -> np.ndarray:
    """Return smooth noise (256, 256) in 0 .. 1 with blobs of ``sigma`` pixels."""
    raw = np.random.default_rng(_SEED).normal(size=(SIZE, SIZE))
    smooth = gaussian_filter(raw, sigma, mode="wrap")
    return np.asarray((smooth - smooth.min()) / (smooth.max() - smooth.min()))


def _wood(scale: float) -> np.ndarray:
    """Boards along x with a grain."""
    _, y = _grid()
    grain = _noise((1.5, 40.0)) * 0.6 + _noise((5.0, 60.0)) * 0.4
    seams = np.abs((y * 4.0 * scale) % 1.0 - 0.5) > 0.48
    return np.clip(grain + 0.5 * seams, 0.0, 1.0)


def _checker(scale: float) -> np.ndarray:
    x, y = _grid()
    return ((np.floor(x * 4.0 * scale) + np.floor(y * 4.0 * scale)) % 2.0).astype(float)


def _stripes(scale: float) -> np.ndarray:
    x, _ = _grid()
    return (np.floor(x * 8.0 * scale) % 2.0).astype(float)


def _speckle(scale: float) -> np.ndarray:
    return (_noise((1.2 / scale, 1.2 / scale)) > 0.58).astype(float)


def _dots(scale: float) -> np.ndarray:
    x, y = _grid()
    row = np.floor(y * 6.0 * scale)
    across, along = (x * 6.0 * scale + 0.5 * (row % 2)) % 1.0 - 0.5, (y * 6.0 * scale) % 1.0 - 0.5
    return (np.hypot(across, along) < 0.2).astype(float)


def _marble(scale: float) -> np.ndarray:
    x, y = _grid()
    waves = np.sin(2 * np.pi * scale * (x + y) + 9.0 * _noise((18.0, 18.0)))
    return np.asarray(np.abs(waves) ** 0.5)


_PATTERNS: dict[str, Callable[[float], np.ndarray]] = {
    "wood": _wood,
    "checker": _checker,
    "stripes": _stripes,
    "speckle": _speckle,
    "dots": _dots,
    "marble": _marble,
}
