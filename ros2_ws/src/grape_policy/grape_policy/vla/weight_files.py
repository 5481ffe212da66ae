"""The weight files of a checkpoint folder, judged by their headers before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grape_policy.vla.config import VlaConfig
from grape_policy.vla.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}


def unused_tensor(config: VlaConfig, name: str) -> bool:
    """Say whether ``name`` is a published tensor that the forward never uses (last block, norm, pooling)."""
    for tower, place in zip(config.towers, ("featurizer", "fused_featurizer"), strict=True):
        prefix = f"vision_backbone.{place}."
        if name.startswith(
            tuple(prefix + part for part in (f"blocks.{tower.depth - 1}.", "norm.", "attn_pool."))
        ):
            return True
    return name.endswith("rotary_emb.inv_freq")


def check_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]
) -> dict[str, Path]:
    """Compare the headers of the weight files with ``shapes``; return the file of each wanted tensor.

    Raises:
        CheckpointError: tensors are missing, extra, mis-shaped, not floating point, or weights are pickled.
    """
    problems = [
        f"pickled file {p.name}: remove it" for p in sorted(folder.iterdir()) if p.suffix in PICKLE_SUFFIXES
    ]
    places: dict[str, Path] = {}
    unreadable: list[str] = []
    for path in weight_files(folder, unreadable):
        for name, shape, kind in tensor_headers(path, unreadable):
            if name in places:
                problems.append(f"twice: {name}")
            if name not in shapes and not ignored(name):
                problems.append(f"extra: {name}")
            elif name in shapes and (shape != shapes[name] or kind not in FLOAT_TYPES):
                problems.append(
                    f"shape or type: {name} is {shape} {kind}, needed {shapes[name]} floating point"
                )
            if name in shapes:
                places[name] = path
    # Where a file cannot be read, what it should hold is not worth a line for each tensor.
    problems += unreadable or [f"missing: {name}" for name in shapes if name not in places]
    if problems:
        raise CheckpointError(folder, problems)
    return places


def weight_files(folder: Path, problems: list[str]) -> list[Path]:
    """Return the weight files of a folder; what is wrong with their index goes to ``problems``."""
    if not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    try:
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{INDEX}: {type(error).__name__} {error}")
        return []
    outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    problems += [f"{INDEX} names {name!r}, which is no safetensors file of this folder" for name in outside]
    return [folder / name for name in names if name not in outside]


def tensor_headers(path: Path, problems: list[str]) -> list[tuple[str, tuple[int, ...], str]]:
    """Return name, shape and dtype of every tensor of a file without reading their data."""
    try:
        with safe_open(path, framework="pt") as handle:
            views = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
            return [(name, tuple(view.get_shape()), view.get_dtype()) for name, view in views.items()]
    except (OSError, SafetensorError) as error:
        problems.append(f"{path.name}: {error}")
        return []


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``ValueError`` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error
