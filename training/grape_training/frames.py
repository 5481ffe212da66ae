"""Training frames on disk: folders of ``.npy`` arrays, whole or absent, that a growing data set can add to.

One shard is a folder with one file per array and ``index.json``, written last: a folder without it is
unfinished and is ignored. Rendered scenes (pre-training) and demonstration frames (SFT) share this form, so
that one batch sampler serves both.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from grape_sim.tasks import TASKS
from numpy.typing import NDArray

from grape_training.errors import BadInputError
from grape_training.files import hash_json, read_json, write_json

TASK_NAMES = tuple(TASKS)
OBJECTS = tuple(name for task in TASKS.values() for name in (task.source, task.target))
TABLE, ARM, GRIPPER = 0, 1, 2
CLASSES = 3 + len(OBJECTS)  # table and background, arm, gripper, then one class per object
UNKNOWN_CLASS = 255
CLASS_GRID = 28  # per-pixel classes are kept on a coarse grid of this many cells a side


@dataclass(frozen=True)
class Frames:
    """``n`` frames with their labels; NaN or ``UNKNOWN_CLASS`` where a label does not exist.

    images (n, S, S, 3) uint8, already cropped and resized for the model; classes (n, 28, 28) uint8;
    objects (n, 8, 3) float32 m, centre of each of ``OBJECTS`` in the base frame; gripper (n, 3) float32 m,
    the point between the finger tips in the base frame; held (n,) int8 index into ``OBJECTS`` or -1;
    actions (n, 4, 7) float32, the expert's action for each of ``TASK_NAMES``.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    objects: NDArray[np.float32]
    gripper: NDArray[np.float32]
    held: NDArray[np.int8]
    actions: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Frames:
        """Return the frames ``rows``, in that order."""
        return Frames(*(getattr(self, field.name)[rows] for field in fields(self)))


def write_shard(folder: Path, frames: Frames, about: dict[str, object]) -> None:
    """Write one shard beside its place and move it there, so that a reader never sees half of it."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for field in fields(Frames):
        np.save(partial / f"{field.name}.npy", getattr(frames, field.name), allow_pickle=False)
    write_json(partial / "index.json", {"frames": len(frames), **about})
    partial.replace(folder)


def read_shard(folder: Path) -> Frames:
    """Read one shard into memory.

    Raises:
        BadInputError: the shard is unfinished or its arrays disagree.
    """
    count = read_json(folder / "index.json", "Delete the folder and make the data again")["frames"]
    try:
        arrays = [np.load(folder / f"{field.name}.npy", allow_pickle=False) for field in fields(Frames)]
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{folder} is damaged ({error})", "Delete the folder and make the data again"
        ) from error
    if any(len(array) != count for array in arrays):
        raise BadInputError(
            f"{folder}: the arrays do not have {count} rows each", "Delete it and make the data again"
        )
    return Frames(*arrays)


def shard_folders(root: Path) -> list[Path]:
    """Return the finished shards below ``root``, sorted."""
    return sorted(path.parent for path in root.glob("[!.]*/index.json"))


def read_frames(root: Path, shards: list[Path] | None = None) -> Frames:
    """Read all finished shards below ``root`` (or just ``shards``) into memory.

    Raises:
        BadInputError: there is none.
    """
    folders = shard_folders(root) if shards is None else shards
    if not folders:
        raise BadInputError(f"{root} holds no finished frames", "Run `grape demos` or `grape scenes` first")
    return concatenate([read_shard(folder) for folder in folders])


def concatenate(parts: list[Frames]) -> Frames:
    """Join frames end to end."""
    return Frames(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Frames)))


def data_hash(root: Path) -> str:
    """Return a hash of what the shards below ``root`` say they hold (seeds, counts, versions)."""
    return hash_json([read_json(folder / "index.json") for folder in shard_folders(root)])
