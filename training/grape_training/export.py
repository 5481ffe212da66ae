"""Export episodes for tools without ROS: arrays (safetensors), images (PNG), JSON and a film (WebP)."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
from grape_episodes.export import write_film
from grape_episodes.reader import read_episode
from grape_episodes.types import Episode, EpisodeError
from PIL import Image
from safetensors.numpy import save_file
from tqdm import tqdm

from grape_training.errors import BadInputError
from grape_training.files import write_json

ARRAYS = (
    "stamps_ns",
    "actions",
    "token_ids",
    "log_probabilities",
    "joint_positions",
    "end_effector_positions",
    "end_effector_quaternions",
)


def export_episodes(episodes: Path, output: Path, *, progress: bool = True) -> int:
    """Export every finished episode below ``episodes`` to ``<output>/<episode_id>/``; return their number.

    Episodes that are there already are left as they are, so that an interrupted export can be taken up.

    Raises:
        BadInputError: There are no episodes, or one cannot be read.
    """
    found = [path.parent for path in sorted(episodes.glob("*/episode.json"))]
    folders = [folder for folder in found if not folder.name.endswith(".part")]
    if not folders:
        raise BadInputError(f"{episodes} holds no episodes", "Collect some first: grape collect")
    for folder in tqdm(folders, desc="export", unit="ep", disable=not progress):
        if not (output / folder.name).exists():
            try:
                _export(read_episode(folder), output / folder.name)
            except EpisodeError as error:
                raise BadInputError(f"{error.what} ({error.where})", error.remedy) from error
    return len(folders)


def _export(episode: Episode, folder: Path) -> None:
    """Write one episode; the folder appears when all of it is written."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    arrays = {name: np.ascontiguousarray(getattr(episode, name)) for name in ARRAYS}
    save_file(arrays, part / "arrays.safetensors")
    document = dataclasses.asdict(episode.manifest)
    document |= {"joint_names": episode.joint_names, "policy_versions": episode.policy_versions}
    document["intrinsics"] = episode.camera.intrinsics.tolist()
    document["base_from_camera"] = episode.camera.base_from_camera.tolist()
    write_json(part / "episode.json", document)
    for index, image in enumerate(episode.images):
        Image.fromarray(image).save(part / f"color_{index:04d}.png")
    for index, depth in enumerate(() if episode.depths is None else episode.depths):
        Image.fromarray(depth).save(part / f"depth_{index:04d}.png")  # 16 bit, mm
    write_film(episode, part / "film.webp")
    os.replace(part, folder)
