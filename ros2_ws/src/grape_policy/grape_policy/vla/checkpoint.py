"""Checkpoint folders: read them with suspicion and in little memory, write them whole.

A folder holds ``config.json``, ``model.safetensors`` (or shards with ``model.safetensors.index.json``),
``tokenizer.json``, ``dataset_statistics.json`` (or ``norm_stats`` in the config) and
``preprocessor_config.json``: the layout of the published OpenVLA and GRAPE checkpoints. Only safetensors and
JSON are ever read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from grape_policy.vla.adapter import CONFIG as ADAPTER_CONFIG
from grape_policy.vla.adapter import WEIGHTS as ADAPTER_WEIGHTS
from grape_policy.vla.adapter import Adapter, base_checkpoint, read_adapter
from grape_policy.vla.config import ConfigError, VlaConfig
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.quantisation import quantised_here, quantised_linear
from grape_policy.vla.runtime import CPU, Runtime
from grape_policy.vla.statistics import ActionStatistics, StatisticsError
from grape_policy.vla.tokenizer import VlaTokenizer
from grape_policy.vla.weight_files import check_weights, read_json, unused_tensor

STATISTICS = "dataset_statistics.json"
PREPROCESSOR = "preprocessor_config.json"
HASHED = {"config.json", "tokenizer.json", STATISTICS, PREPROCESSOR, ADAPTER_CONFIG, ADAPTER_WEIGHTS}


@dataclass
class Checkpoint:
    """A loaded checkpoint: the model in evaluation mode and all that is needed to use it."""

    model: OpenVla
    config: VlaConfig
    tokenizer: VlaTokenizer
    statistics: dict[str, ActionStatistics]
    preprocessor: Preprocessor
    version: str


def load_checkpoint(
    folder: Path | str,
    adapter: Path | str | None = None,
    runtime: Runtime = CPU,
) -> Checkpoint:
    """Load a checkpoint folder, with a LoRA adapter folder merged into it when one is given.

    An adapter folder alone is merged into the checkpoint that its config names. Versions take the folder's
    name without a trailing hash, so that a folder called after its own version keeps it.

    Weights are read tensor by tensor: peak memory is what ``runtime`` keeps and one tensor more.

    Raises:
        CheckpointError: something is missing, extra, mis-shaped, not finite, pickled or unreadable; its
            ``problems`` lists all of it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(folder, ["no such folder"])
    if adapter is None and (folder / ADAPTER_CONFIG).is_file():
        folder, adapter = base_checkpoint(folder), folder
    config = read_config(folder)
    preprocessor, tokenizer, statistics = read_small_files(folder, config)
    with torch.device("meta"):
        model = OpenVla(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    places = check_weights(folder, shapes, lambda name: unused_tensor(config, name))
    lora = read_adapter(Path(adapter), shapes, lambda name: unused_tensor(config, name)) if adapter else None
    _fill(model, places, lora, runtime)
    paths = [folder, Path(adapter)] if adapter else [folder]
    name = re.sub(r"-[0-9a-f]{8}$", "", Path(adapter).name) if adapter else config.name
    return Checkpoint(model, config, tokenizer, statistics, preprocessor, version_of(name, paths))


def read_config(folder: Path) -> VlaConfig:
    """Read ``config.json``.

    Raises:
        CheckpointError: it is missing or describes no model of ours.
    """
    try:
        return VlaConfig.from_dict(read_json(folder / "config.json"), name=folder.resolve().name)
    except (ConfigError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(folder, [f"config.json: {error}"]) from error


def read_small_files(
    folder: Path, config: VlaConfig
) -> tuple[Preprocessor, VlaTokenizer, dict[str, ActionStatistics]]:
    """Read preprocessor, tokenizer and statistics.

    Raises:
        CheckpointError: any of them is missing, damaged or does not fit the model.
    """
    problems: list[str] = []

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (ValueError, OSError) as error:
            problems.append(str(error))
            return None

    preprocessor = attempt(lambda: Preprocessor.from_dict(read_json(folder / PREPROCESSOR)))
    tokenizer = attempt(lambda: VlaTokenizer.from_file(folder / "tokenizer.json", config.prompt_style))
    statistics = attempt(lambda: read_statistics(folder, config))
    if preprocessor is not None and preprocessor.image_size != config.towers[0].image_size:
        problems.append(f"{PREPROCESSOR} is for {preprocessor.image_size} px images, the towers are not")
    if problems:
        raise CheckpointError(folder, problems)
    return preprocessor, tokenizer, statistics


def read_statistics(folder: Path, config: VlaConfig) -> dict[str, ActionStatistics]:
    """Read all action statistics, from ``dataset_statistics.json`` or else from the config's ``norm_stats``.

    Raises:
        StatisticsError: there are none, or they are malformed.
    """
    path = folder / STATISTICS
    document = read_json(path) if path.exists() else config.norm_stats
    if not isinstance(document, Mapping) or not document:
        raise StatisticsError(f"no action statistics: neither {STATISTICS} nor norm_stats in config.json")
    return {key: ActionStatistics.from_dict(entry, key) for key, entry in document.items()}


def _fill(model: OpenVla, places: Mapping[str, Path], adapter: Adapter | None, runtime: Runtime) -> None:
    """Put the tensors into a model that was built on the meta device."""
    bad = []
    for name, path in places.items():
        # Opened per tensor: the mapped pages are let go again, so that memory holds one tensor more.
        with safe_open(path, framework="pt") as handle:
            tensor = handle.get_tensor(name).to(runtime.dtype, copy=True)
        if adapter is not None:
            tensor = adapter.merge(name, tensor)
        if not all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor)):  # NaN is both ends
            bad.append(f"NaN or infinity: {name}")
        _assign(model, name, tensor, runtime)
    if bad:
        raise CheckpointError(next(iter(places.values())).parent, bad)
    decoder = model.language_model.model
    decoder.rotary_emb = type(decoder.rotary_emb)(model.language_model.config).to(runtime.device)
    model.eval()


def _assign(model: OpenVla, name: str, tensor: Tensor, runtime: Runtime) -> None:
    place, _, leaf = name.rpartition(".")
    if runtime.four_bit and quantised_here(name, tensor):
        model.set_submodule(place, quantised_linear(tensor, runtime.device))
    else:
        setattr(model.get_submodule(place), leaf, torch.nn.Parameter(tensor.to(runtime.device)))


def version_of(name: str, folders: Sequence[Path]) -> str:
    """Return ``<name>-<8 hex>`` of the content of all files of the folders that loading reads."""
    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        if path.name in HASHED or path.match("model*.safetensors"):
            digest.update(path.name.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{name}-{digest.hexdigest()[:8]}"


def save_checkpoint(
    folder: Path | str,
    model: OpenVla,
    tokenizer: VlaTokenizer,
    statistics: Mapping[str, ActionStatistics],
    preprocessor: Preprocessor,
    *,
    max_shard_size: str = "5GB",
) -> str:
    """Write a checkpoint folder and return its version; an older folder of that name is replaced at the end.

    The weights keep the dtype they have in ``model``. Nothing half-written is ever visible under ``folder``.

    Raises:
        ValueError: the model is quantised, which loses what a checkpoint should keep.
    """
    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ValueError("a 4-bit model is for acting only: load the checkpoint at 16 or 32 bits to save it")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        entries = {key: value.to_dict() for key, value in statistics.items()}
        _write_json(draft / "config.json", model.config.to_dict())
        _write_json(draft / STATISTICS, entries)
        _write_json(draft / PREPROCESSOR, preprocessor.to_dict())
        (draft / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        weights = {name: _own_storage(tensor) for name, tensor in model.state_dict().items()}
        save_torch_state_dict(weights, draft, max_shard_size=max_shard_size)
        draft.chmod(0o755)
        for path in draft.glob("*.safetensors"):  # which are written for their owner only
            path.chmod(0o644)
        _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return version_of(model.config.name, [folder])


def _own_storage(tensor: Tensor) -> Tensor:
    """Return the tensor, copied only when it shares its storage (as fused layers of a decoder do)."""
    tensor = tensor.detach().contiguous()
    shared = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
    return tensor.clone() if shared else tensor


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _swap(draft: Path, folder: Path) -> None:
    """Put ``draft`` in the place of ``folder`` by renaming."""
    old = draft.with_name(draft.name + ".old")
    if folder.exists():
        folder.replace(old)
    draft.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
