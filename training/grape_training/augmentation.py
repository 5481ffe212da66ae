"""What is done to training images: changes of colour, and crops that move the labels along.

``colour`` leaves geometry alone, because the camera is fixed and the answers are metric. ``openvla`` does
what OpenVLA's fine-tuning does: a random crop of 90 % of the area, resized back, then brightness, contrast,
saturation and hue. A model trained with crops sees the central 90 % when it acts.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_training.frames import Frames

COLOUR, OPENVLA = "colour", "openvla"
AUGMENTATIONS = (COLOUR, OPENVLA)
CROP_AREA = 0.9  # OpenVLA's random_resized_crop, ratio 1
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2, 0.2, 0.2, 0.05  # OpenVLA's, as largest changes


def whole_windows(count: int) -> NDArray[np.float32]:
    """Return windows (count, 3) that keep the whole image: left, top and side in shares of its side."""
    return np.tile(np.array([0.0, 0.0, 1.0], np.float32), (count, 1))


def draw_windows(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return random square windows (count, 3) of ``CROP_AREA``: left, top, side in shares of the side."""
    side = math.sqrt(CROP_AREA)
    places = rng.uniform(0.0, 1.0 - side, (count, 2))
    return np.concatenate([places, np.full((count, 1), side)], axis=1).astype(np.float32)


def crop(frames: Frames, windows: NDArray[np.float32]) -> Frames:
    """Return ``frames`` with images and pixel classes cut to ``windows`` and brought back to their size."""
    images = [_cut(*pair, cv2.INTER_LINEAR) for pair in zip(frames.images, windows, strict=True)]
    classes = [_cut(*pair, cv2.INTER_NEAREST) for pair in zip(frames.classes, windows, strict=True)]
    return replace(frames, images=np.stack(images), classes=np.stack(classes))


def _cut(picture: NDArray[np.uint8], window: NDArray[np.float32], how: int) -> NDArray[np.uint8]:
    """Return the window of a square picture (S, S[, 3]) at the picture's own size."""
    size = len(picture)
    left, top, side = (float(value) for value in window)
    shift = 0.5 * side - 0.5  # pixel centres lie half a pixel inside
    target_to_source = np.array([[side, 0.0, left * size + shift], [0.0, side, top * size + shift]])
    flags = how | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(
        picture, target_to_source, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.uint8)


def recolour(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue of each image (n, S, S, 3) by random amounts."""
    return np.stack([_recolour(image, rng) for image in images])


def _recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    unit = image.astype(np.float32) / 255.0 + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    mean = unit.mean(axis=(0, 1), keepdims=True)
    unit = mean + (unit - mean) * rng.uniform(1 - CONTRAST, 1 + CONTRAST)
    hsv = cv2.cvtColor(np.clip(unit, 0.0, 1.0).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360.0 * rng.uniform(-HUE, HUE)) % 360.0
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(1 - SATURATION, 1 + SATURATION), 0.0, 1.0)
    return np.asarray(np.rint(255.0 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)), np.uint8)


def jitter(pixels: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Scale and shift each normalised image's channels: brightness, contrast and colour cast, no geometry."""
    if strength <= 0:
        return pixels
    shape = (len(pixels), 1, 1, 1, 1)
    gain = (
        1
        + strength * rng.uniform(-1, 1, shape)
        + strength / 3 * rng.uniform(-1, 1, (len(pixels), 1, 3, 1, 1))
    )
    shift = strength * rng.uniform(-1, 1, shape)
    towers = pixels.view(len(pixels), 2, 3, *pixels.shape[2:])
    scaled = towers * torch.from_numpy(gain).float() + torch.from_numpy(shift).float()
    return scaled.view_as(pixels)
