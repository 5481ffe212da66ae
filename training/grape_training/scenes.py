"""Rendered random scenes for pre-training: shards of frames with labels, resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from grape_policy.vla.preprocess import Preprocessor
from grape_sim.random_scene import RandomSample, RandomSceneRenderer
from numpy.typing import NDArray
from tqdm import tqdm

from grape_training.frames import CLASS_GRID, OBJECTS, TASK_NAMES, UNKNOWN_CLASS, Frames, write_shard

SHARD = 1000
MASKED_SHARE = 0.25  # of the frames: masks cost a second rendering


def render_scenes(root: Path, count: int, image_size: int, seed: int = 0) -> None:
    """Render ``count`` frames (rounded up to whole shards) below ``root``; finished shards are kept.

    Several processes may work on the same ``root``: each takes the next shard nobody has begun.
    """
    root.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(-(-count // SHARD)), desc="scenes", unit="shard"):
        folder = root / f"shard-{index:05d}"
        claim = root / f"{folder.name}.claim"
        if (folder / "index.json").exists() or not _claim(claim):
            continue
        try:
            frames = render_shard(SHARD, image_size, seed=seed * 1_000_000 + index)
            write_shard(
                folder, frames, {"kind": "scenes", "seed": seed, "index": index, "image_size": image_size}
            )
        finally:
            claim.unlink(missing_ok=True)


def _claim(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def render_shard(count: int, image_size: int, seed: int) -> Frames:
    """Render ``count`` random scenes at ``image_size`` pixels; the same seed gives the same frames."""
    renderer = RandomSceneRenderer(seed)
    try:
        samples = [renderer.sample(masks=row < MASKED_SHARE * count) for row in range(count)]
    finally:
        renderer.close()
    preprocessor = Preprocessor(image_size=image_size)
    return Frames(
        images=preprocessor.resize(np.stack([sample.image for sample in samples])),
        classes=np.stack([coarse_classes(sample.masks) for sample in samples]),
        objects=np.stack([object_rows(sample.positions) for sample in samples]),
        gripper=np.stack([sample.end_effector_position for sample in samples]).astype(np.float32),
        held=np.array([OBJECTS.index(s.held) if s.held else -1 for s in samples], np.int8),
        actions=np.stack([_action_rows(sample) for sample in samples]),
    )


def coarse_classes(masks: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Sample pixel classes (H, W) of the central square on a grid (28, 28); all unknown without masks."""
    if masks is None:
        return np.full((CLASS_GRID, CLASS_GRID), UNKNOWN_CLASS, np.uint8)
    side = min(masks.shape)
    top, left = (masks.shape[0] - side) // 2, (masks.shape[1] - side) // 2
    cells = ((np.arange(CLASS_GRID) + 0.5) * side / CLASS_GRID).astype(int)
    return masks[top + cells[:, None], left + cells[None, :]]


def object_rows(positions: dict[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """Return positions (8, 3) in the order of ``OBJECTS``, NaN for those that are not there."""
    missing = np.full(3, np.nan)
    return np.stack([positions.get(name, missing) for name in OBJECTS]).astype(np.float32)


def _action_rows(sample: RandomSample) -> NDArray[np.float32]:
    missing = np.full(7, np.nan)
    return np.stack([sample.actions.get(name, missing) for name in TASK_NAMES]).astype(np.float32)
