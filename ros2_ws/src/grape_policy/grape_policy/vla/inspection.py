"""What a checkpoint or adapter folder holds, and everything that is wrong with it, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from grape_policy.vla.adapter import CONFIG as ADAPTER_CONFIG
from grape_policy.vla.adapter import base_checkpoint, read_adapter
from grape_policy.vla.checkpoint import read_config, read_small_files, read_statistics, version_of
from grape_policy.vla.config import VlaConfig
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.model import OpenVla
from grape_policy.vla.statistics import choose_statistics
from grape_policy.vla.weight_files import check_weights, tensor_headers, unused_tensor, weight_files

KINDS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def model_shapes(config: VlaConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of the model, without making them."""
    with torch.device("meta"):
        state = OpenVla(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def inspect_checkpoint(folder: Path) -> dict[str, Any]:
    """Return version, sizes, dtypes, statistics keys, hashes and shapes of a checkpoint folder.

    Only headers are read, and the files' hashes; an adapter folder is described by its own tensors.

    Raises:
        CheckpointError: no such folder, or nothing readable in it.
    """
    if not folder.is_dir():
        raise CheckpointError(folder, ["no such folder"])
    if (folder / ADAPTER_CONFIG).is_file():
        return _inspect_adapter(folder)
    problems: list[str] = []
    config = read_config(folder)
    tensors = [entry for path in weight_files(folder, problems) for entry in tensor_headers(path, problems)]
    if problems:
        raise CheckpointError(folder, problems)
    used = {name: (shape, kind) for name, shape, kind in tensors if not unused_tensor(config, name)}
    return {
        "version": version_of(config.name, [folder]),
        "kind": "checkpoint",
        "parameters": sum(_count(shape) for shape, _ in used.values()),
        "tensors": len(used),
        "unused_tensors": len(tensors) - len(used),
        "dtypes": dict(Counter(kind for _, kind in used.values())),
        "weight_bytes": sum(_count(shape) * KINDS.get(kind, 0) for shape, kind in used.values()),
        "image_size": config.towers[0].image_size,
        "vocabulary": config.vocabulary,
        "prompt_style": config.prompt_style,
        "statistics": sorted(read_statistics(folder, config)),
        "sha256": file_hashes(folder),
        "shapes": {name: list(shape) for name, (shape, _) in sorted(used.items())},
    }


def _inspect_adapter(folder: Path) -> dict[str, Any]:
    base = base_checkpoint(folder)
    config = read_config(base)
    adapter = read_adapter(folder, model_shapes(config), lambda name: unused_tensor(config, name))
    factors = [factor for pair in adapter.factors.values() for factor in pair]
    return {
        "version": version_of(folder.name, [base, folder]),
        "kind": "adapter",
        "base": str(base),
        "parameters": sum(factor.numel() for factor in factors),
        "tensors": len(factors),
        "rank": len(next(iter(adapter.factors.values()))[0]),
        "scale": adapter.scale,
        "dtypes": dict(Counter(str(factor.dtype).removeprefix("torch.") for factor in factors)),
        "statistics": sorted(read_statistics(base, config)),
        "sha256": file_hashes(folder),
        "shapes": {name: [list(f.shape) for f in pair] for name, pair in sorted(adapter.factors.items())},
    }


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by name."""
    hashes = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as stream:
            hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def find_problems(folder: Path, adapter: Path | None = None, statistics_key: str | None = None) -> list[str]:
    """Return everything that is wrong with a checkpoint folder (and adapter); empty when it can be used.

    Reads every tensor once, one at a time. ``statistics_key`` must be there when it is given.
    """
    try:
        if not folder.is_dir():
            return ["no such folder"]
        if adapter is None and (folder / ADAPTER_CONFIG).is_file():
            folder, adapter = base_checkpoint(folder), folder
        config = read_config(folder)
        shapes = model_shapes(config)
    except CheckpointError as error:
        return error.problems

    def ignored(name: str) -> bool:
        return unused_tensor(config, name)

    problems = _collected(lambda: read_small_files(folder, config))
    problems += _collected(lambda: check_weights(folder, shapes, ignored))
    problems += _not_finite(folder, set(shapes))
    problems += _manifest_problems(folder)
    if statistics_key is not None:
        problems += _collected(lambda: choose_statistics(read_statistics(folder, config), statistics_key))
    if adapter is not None:
        problems += _collected(lambda: read_adapter(adapter, shapes, ignored))
    return problems


def _collected(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except CheckpointError as error:
        return error.problems
    except ValueError as error:
        return [str(error)]
    return []


def _not_finite(folder: Path, names: set[str]) -> list[str]:
    """Name the tensors with NaN or infinity; unreadable files are the business of ``check_weights``."""
    bad: list[str] = []
    unreadable: list[str] = []
    for path in weight_files(folder, unreadable):
        for name, _, _ in tensor_headers(path, unreadable):
            with safe_open(path, framework="pt") as handle:
                if name in names and not bool(torch.isfinite(handle.get_tensor(name)).all()):
                    bad.append(f"NaN or infinity: {name}")
    return bad


def _manifest_problems(folder: Path) -> list[str]:
    """Compare the files with the hashes under ``files`` of a ``MANIFEST.json``, where there is one."""
    path = folder / "MANIFEST.json"
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).get("files", {})
        expected = {name: str(value) for name, value in dict(listed).items()}
    except (ValueError, AttributeError, TypeError) as error:
        return [f"MANIFEST.json: {error}"]
    found = file_hashes(folder)
    return [f"not the file of MANIFEST.json: {n}" for n, v in expected.items() if found.get(n) != v]
