"""LoRA adapters in peft's layout: checked, then merged into the weights they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grape_policy.vla.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
REFUSED = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates by the name of the weight they change: (A, B), each times ``scale``."""

    factors: dict[str, tuple[Tensor, Tensor]]
    scale: float

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Return ``weight + scale * B A`` for the weight ``name``; other weights come back unchanged."""
        if name not in self.factors:
            return weight
        first, second = (factor.float() for factor in self.factors[name])
        update = (second.flatten(1) @ first.flatten(1)).reshape(weight.shape)
        return (weight.float() + self.scale * update).to(weight.dtype)


def base_checkpoint(folder: Path) -> Path:
    """Return the checkpoint folder that an adapter folder names, relative to itself or to the working folder.

    Raises:
        CheckpointError: the adapter names no folder that is there.
    """
    name = _read_files(folder)[0].get("base_model_name_or_path") or ""
    for base in (folder / name, Path(name)):
        if name and base.is_dir():
            return base.resolve()
    raise CheckpointError(folder, [f"its base checkpoint {name!r} (in {CONFIG}) is not there"])


def read_adapter(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]
) -> Adapter:
    """Read an adapter for a model whose weights have ``shapes``; factors of ``ignored`` weights are skipped.

    Raises:
        CheckpointError: the folder is no LoRA adapter of this model, or its tensors are damaged.
    """
    config, tensors = _read_files(folder)
    names = {_target(key) for key in tensors}
    problems = [f"not a LoRA tensor: {key}" for key in tensors if _target(key) == ""]
    factors = {}
    for name in sorted(names - {""}):
        if ignored(name):
            continue
        pair = _factors(tensors, name)
        problem = _problem(name, pair, shapes, int(config["r"]))
        if problem:
            problems.append(problem)
        else:
            factors[name] = pair
    if problems or not factors:
        raise CheckpointError(folder, problems or ["it changes no weight of this model"])
    rank = float(config["r"])
    return Adapter(factors, float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank))


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    problems = []
    if folder.is_dir() and (folder / "adapter_model.bin").exists():
        problems.append("adapter_model.bin is pickled: only safetensors are read")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(folder, [*problems, str(error)]) from error
    if (
        not isinstance(config, dict)
        or not {"r", "lora_alpha"} <= set(config)
        or config.get("peft_type") != "LORA"
    ):
        raise CheckpointError(
            folder, [*problems, f"{CONFIG} describes no LoRA adapter (peft_type, r, lora_alpha)"]
        )
    problems += [f"{CONFIG}: {key} is not supported" for key in REFUSED if config.get(key)]
    if config.get("bias", "none") != "none":
        problems.append(f"{CONFIG}: trained biases are not supported")
    if problems:
        raise CheckpointError(folder, problems)
    return config, tensors


def _target(key: str) -> str:
    """Return the weight that the adapter tensor ``key`` changes, or "" when it is no LoRA tensor."""
    for suffix in (".lora_A.weight", ".lora_B.weight"):
        if key.startswith(PREFIX) and key.endswith(suffix):
            return key[len(PREFIX) : -len(suffix)] + ".weight"
    return ""


def _factors(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    stem = PREFIX + name.removesuffix(".weight")
    missing = torch.empty(0)
    return tensors.get(f"{stem}.lora_A.weight", missing), tensors.get(f"{stem}.lora_B.weight", missing)


def _problem(name: str, pair: tuple[Tensor, Tensor], shapes: Mapping[str, tuple[int, ...]], rank: int) -> str:
    first, second = pair
    if name not in shapes:
        return f"extra: the model has no {name}"
    shape = shapes[name]
    fits = (
        first.shape == (rank, *shape[1:])
        and second.shape[:2] == (shape[0], rank)
        and second[0].numel() == rank
    )
    if not fits:
        return (
            f"shape: {name} {shape} does not fit A {tuple(first.shape)}, B {tuple(second.shape)}, r = {rank}"
        )
    if not all(bool(torch.isfinite(factor).all()) for factor in pair):
        return f"NaN or infinity: {name}"
    return ""
