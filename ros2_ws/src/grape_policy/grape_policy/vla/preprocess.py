"""Camera images to the model's pixel values: crop, PIL bicubic resize, one normalisation per tower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

# What the released OpenVLA checkpoints carry: ImageNet's and SigLIP's numbers rounded to bfloat16.
DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessor:
    """Image preprocessing of one checkpoint (``preprocessor_config.json``).

    ``square_crop`` takes the central square of the camera image (released checkpoints squash it instead).
    ``center_crop_area`` is the share of the area kept after that: 0.9 for models trained with random crops.
    """

    image_size: int
    means: tuple[tuple[float, ...], ...] = (DINO_MEAN, SIGLIP_MEAN)
    stds: tuple[tuple[float, ...], ...] = (DINO_STD, SIGLIP_STD)
    square_crop: bool = True
    center_crop_area: float = 1.0

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Preprocessor:
        """Read a ``preprocessor_config.json``, ours or a published one.

        Raises:
            ValueError: sizes, means or standard deviations are missing or impossible.
        """
        try:
            preprocessor = cls(
                image_size=int(document["input_sizes"][0][-1]),
                means=tuple(tuple(map(float, mean)) for mean in document["means"]),
                stds=tuple(tuple(map(float, std)) for std in document["stds"]),
                square_crop=bool(document.get("square_crop", False)),
                center_crop_area=float(document.get("center_crop_area", 1.0)),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"preprocessor_config.json: {type(error).__name__} {error}") from error
        preprocessor._check()
        return preprocessor

    def _check(self) -> None:
        values = np.array([*self.means, *self.stds])
        if values.shape != (4, 3) or not np.isfinite(values).all() or (values[2:] <= 0).any():
            raise ValueError(
                "preprocessor_config.json: means and stds need 2 x 3 finite numbers, stds above 0"
            )
        if not 0.0 < self.center_crop_area <= 1.0 or self.image_size < 1:
            raise ValueError("preprocessor_config.json: center_crop_area must be in (0, 1], sizes above 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``preprocessor_config.json``."""
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "image_resize_strategy": "resize-naive",
            "input_sizes": [[3, self.image_size, self.image_size]] * 2,
            "interpolations": ["bicubic", "bicubic"],
            "means": [list(mean) for mean in self.means],
            "stds": [list(std) for std in self.stds],
            "square_crop": self.square_crop,
            "center_crop_area": self.center_crop_area,
            "use_fused_vision_backbone": True,
        }

    def crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of a camera image that the model sees: left, top, right, bottom in pixels."""
        side = min(height, width)
        size = (side, side) if self.square_crop else (height, width)
        scale = math.sqrt(self.center_crop_area)
        top, left = (height - scale * size[0]) / 2, (width - scale * size[1]) / 2
        return left, top, left + scale * size[1], top + scale * size[0]

    def resize(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Crop and resize RGB images (B, H, W, 3) uint8 to (B, s, s, 3) uint8.

        Raises:
            ValueError: not a batch of RGB uint8 images.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be (B, H, W, 3) uint8, got {images.shape} {images.dtype}")
        size, box = (self.image_size, self.image_size), self.crop_box(*images.shape[1:3])
        if images.shape[1:3] == size and box == (0, 0, *size):
            return images
        resized = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box) for image in images]
        return np.stack([np.asarray(image) for image in resized])

    def normalise(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Map resized images (B, s, s, 3) uint8 to pixel values (B, 6, s, s) float32."""
        # Made contiguous while it is bytes: arithmetic on the strided view takes four times as long.
        unit = torch.as_tensor(images).permute(0, 3, 1, 2).contiguous().float() / 255.0
        means, stds = (_per_channel(values).to(unit.device) for values in (self.means, self.stds))
        return (unit - means).div_(stds).transpose(0, 1).flatten(1, 2)

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Map camera images (B, H, W, 3) uint8 RGB to pixel values (B, 6, s, s) float32."""
        return self.normalise(self.resize(images))


@lru_cache
def _per_channel(values: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Return one tower's numbers after the other, shaped for images (tower, B, channel, row, column)."""
    return torch.tensor(values).reshape(2, 1, 3, 1, 1)
