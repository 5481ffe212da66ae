"""Load ``transformers`` models from local folders: safetensors and JSON, no download, no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grape_preference.vlm_json import shorten

SAFE = {"local_files_only": True, "trust_remote_code": False}


def load_model(kind: Any, folder: Path | str, dtype: Any) -> Any:
    """Return a model of class ``kind`` (or an ``Auto`` class) in evaluation mode.

    Args:
        kind: a class of transformers.
        folder: with config.json and model.safetensors, or its shards.
        dtype: of torch, or "auto".

    Raises:
        ValueError: the folder is missing, is no checkpoint of that class, lacks tensors, or needs code.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: no checkpoint (config.json is missing); give a downloaded model's folder"
        )
    try:
        model, report = kind.from_pretrained(
            folder, **SAFE, use_safetensors=True, output_loading_info=True, dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ValueError(f"{folder}: cannot be loaded as {kind.__name__} ({shorten(str(error))})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        what = f"{len(missing)} tensors are missing, e.g. {missing[0]}"
        raise ValueError(f"{folder}: no whole checkpoint of {kind.__name__}; {what}")
    return model.eval()
