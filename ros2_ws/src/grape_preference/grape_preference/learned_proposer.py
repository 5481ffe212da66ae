"""Objects and their parts by foundation models: SAM2 outlines what stands on the table, DINOv2 divides it.

The way of ReKep and GRAPE: masks give objects, clusters of DINOv2 features inside a mask give keypoints on
it. Here the depth image chooses where SAM2 is asked and what of its masks stands on the table. Checkpoints
are local folders (safetensors and JSON); nothing is downloaded and no code of theirs runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from grape_episodes.contract import Camera
from scipy.cluster.vq import kmeans2
from transformers import Dinov2Model, Sam2Model

from grape_preference.appearance import appearances
from grape_preference.local_models import load_model
from grape_preference.proposers import in_workspace
from grape_preference.segmentation import MIN_PIXELS, Candidate, Projector, box_candidate, colour_mask

GRID = 10  # px between the points at which SAM2 is asked
POINTS_AT_ONCE = 32
SAME, CONTAINED = 0.7, 0.8  # overlaps (IoU; share of the smaller) from which two masks are one thing
STANDING = 0.5  # share of a mask that must stand above the table
MAX_OBJECT = 0.25  # m, longest side; larger masks are the robot or the table
COLOUR_SHARE = 0.3  # share of a mask in an object's declared colours from which it can be that object
PART_DISTANCE = 0.025  # m; parts whose centres are nearer are one
FEATURE_SCALE, FEATURE_DIMENSIONS = 2, 3
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # both models': ImageNet


class LearnedProposer:
    """Finds what stands on the table without declared colours; these only bind names, see ``propose``."""

    def __init__(
        self,
        sam2: Path | str,
        dinov2: Path | str,
        device: str = "cpu",
        *,
        parts: int = 3,
        min_quality: float = 0.7,
    ) -> None:
        """Load both models.

        Args:
            sam2: checkpoint folder, e.g. of facebook/sam2.1-hiera-tiny.
            dinov2: checkpoint folder, e.g. of facebook/dinov2-small.
            device: of torch.
            parts: most parts per object; below 2: no parts.
            min_quality: least IoU that SAM2 predicts for a mask that is kept.

        Raises:
            ValueError: a folder is no checkpoint of its model.
        """
        self._sam2 = load_model(Sam2Model, sam2, torch.float32).to(device)
        self._dinov2 = load_model(Dinov2Model, dinov2, torch.float32).to(device)
        self._parts, self._min_quality = parts, min_quality

    def propose(
        self, image: np.ndarray, depth: np.ndarray, camera: Camera, names: Sequence[str] = ()
    ) -> dict[str, Candidate]:
        """See proposers.Proposer.

        Without ``names`` the objects are called object_1, object_2, ...; names are bound by their declared
        colours. The parts of ``a`` are called a_part_1, a_part_2, ...
        """
        projector = Projector(camera)
        regions = self._regions(image, depth, projector)
        bound = bind_by_colour(image, regions, names) if names else _numbered(regions)
        features = self._features(image) if bound and self._parts > 1 else None
        found = {}
        for name, pixels in bound.items():
            found[name] = box_candidate(name, pixels, depth, projector)
            if features is not None:
                parts = divide(pixels, features, projector.points(pixels, depth), self._parts)
                names_of_parts = [f"{name}_part_{number}" for number in range(1, len(parts) + 1)]
                for part_name, part in zip(names_of_parts, parts, strict=True):
                    found[part_name] = box_candidate(part_name, part, depth, projector)
        return found

    def _regions(self, image: np.ndarray, depth: np.ndarray, projector: Projector) -> list[np.ndarray]:
        """Return the pixels (n, 2) of each thing on the table, the largest first."""
        above = projector.above_table(depth)
        masks, quality = self._masks(image, _grid(above))
        standing = [
            mask for mask in masks[quality >= self._min_quality] if is_object(mask, above, depth, projector)
        ]
        return [np.argwhere(mask & above)[:, ::-1] for mask in distinct(standing)]

    @torch.inference_mode()
    def _masks(self, image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a mask (n, H, W) and its predicted IoU (n,) for each of ``points`` (n, 2) as (u, v)."""
        height, width = image.shape[:2]
        side = int(self._sam2.config.prompt_encoder_config.image_size)
        embeddings = self._sam2.get_image_embeddings(self._tensor(image, side, side))
        masks, quality = [np.zeros((0, height, width), bool)], [np.zeros(0)]
        scaled = torch.tensor((points + 0.5) * [side / width, side / height], dtype=torch.float32)
        for first in range(0, len(points), POINTS_AT_ONCE):
            batch = scaled[None, first : first + POINTS_AT_ONCE, None].to(self._sam2.device)
            output = self._sam2(image_embeddings=embeddings, input_points=batch)
            best = output.iou_scores[0].argmax(dim=-1)
            rows = torch.arange(len(best), device=best.device)
            logits = output.pred_masks[0][rows, best][None].float()
            full = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear")[0]
            masks.append((full > 0).cpu().numpy())
            quality.append(output.iou_scores[0][rows, best].float().cpu().numpy())
        return np.concatenate(masks), np.concatenate(quality)

    @torch.inference_mode()
    def _features(self, image: np.ndarray) -> np.ndarray:
        """Return DINOv2 features (H, W, FEATURE_DIMENSIONS), reduced by PCA, at every pixel."""
        height, width = image.shape[:2]
        patch = int(self._dinov2.config.patch_size)
        rows, columns = (max(side * FEATURE_SCALE // patch, 1) for side in (height, width))
        hidden = self._dinov2(self._tensor(image, rows * patch, columns * patch)).last_hidden_state
        tokens = hidden[0, 1:].float().cpu().numpy()
        tokens -= tokens.mean(axis=0)
        _, _, axes = np.linalg.svd(tokens, full_matrices=False)
        reduced = tokens @ axes[:FEATURE_DIMENSIONS].T
        reduced /= np.maximum(reduced.std(), 1e-9)
        grid = reduced.reshape(rows, columns, -1).astype(np.float32)
        return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR))

    def _tensor(self, image: np.ndarray, height: int, width: int) -> torch.Tensor:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        normal = (resized / 255.0 - _MEAN) / _DEVIATION
        return torch.tensor(normal.transpose(2, 0, 1)[None], dtype=torch.float32, device=self._sam2.device)


def is_object(mask: np.ndarray, above: np.ndarray, depth: np.ndarray, projector: Projector) -> bool:
    """Return whether a mask (H, W) is of a thing that stands on the table in the workspace, and no larger."""
    v, u = np.nonzero(mask & above)
    if len(v) < max(MIN_PIXELS, STANDING * mask.sum()):
        return False
    pixels = np.stack([u, v], axis=1)
    box = box_candidate("", pixels, depth, projector)
    return in_workspace(projector.points(pixels, depth)) and float(box.extent.max()) <= MAX_OBJECT


def distinct(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return those of ``masks`` (H, W) that are no repetition or piece of a larger one, largest first."""
    kept: list[np.ndarray] = []
    for mask in sorted(masks, key=lambda mask: -int(mask.sum())):
        if not any(_same_thing(mask, other) for other in kept):
            kept.append(mask)
    return kept


def bind_by_colour(
    image: np.ndarray, regions: Sequence[np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the region that shows most of each name's declared colours; a region gets one name only."""
    known = appearances()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no appearance is declared for {unknown[0]!r}; there are {', '.join(known)}")
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    shares = [
        (float(colour_mask(hsv, known[name].body)[pixels[:, 1], pixels[:, 0]].mean()), name, number)
        for name in names
        for number, pixels in enumerate(regions)
    ]
    bound: dict[str, int] = {}
    for share, name, number in sorted(shares, reverse=True):
        if share >= COLOUR_SHARE and name not in bound and number not in bound.values():
            bound[name] = number
    return {name: regions[bound[name]] for name in names if name in bound}


def divide(pixels: np.ndarray, features: np.ndarray, points: np.ndarray, parts: int) -> list[np.ndarray]:
    """Cluster an object's pixels by looks and place; fewer than two parts are none.

    Args:
        pixels: (n, 2) as (u, v).
        features: (H, W, d) at every pixel of the image, of about unit size.
        points: (n, 3) where the pixels are, metres.
        parts: most clusters.
    """
    if len(pixels) < parts * MIN_PIXELS:
        return []
    place = (points - points.mean(axis=0)) / max(float(points.std()), 1e-9)
    seen = features[pixels[:, 1], pixels[:, 0]]
    data = np.concatenate([seen, place], axis=1).astype(np.float64)
    _, labels = kmeans2(data, parts, minit="++", rng=np.random.default_rng(0), missing="warn")
    found: list[np.ndarray] = []
    centres: list[np.ndarray] = []
    for label in range(parts):
        member = labels == label
        centre = points[member].mean(axis=0) if member.sum() >= MIN_PIXELS else None
        if centre is None or any(np.linalg.norm(centre - other) < PART_DISTANCE for other in centres):
            continue
        found.append(pixels[member])
        centres.append(centre)
    return found if len(found) > 1 else []


def _same_thing(a: np.ndarray, b: np.ndarray) -> bool:
    common, sizes = int((a & b).sum()), (int(a.sum()), int(b.sum()))
    return common > SAME * (sum(sizes) - common) or common > CONTAINED * min(sizes)


def _grid(above: np.ndarray) -> np.ndarray:
    v, u = np.nonzero(above[GRID // 2 :: GRID, GRID // 2 :: GRID])
    return np.stack([u, v], axis=1) * GRID + GRID // 2


def _numbered(regions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"object_{number}": pixels for number, pixels in enumerate(regions, start=1)}
