"""Low-rank adapters on a VLA (peft): attach, switch off for the reference, save in peft's layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from grape_training.tpo_options import LoraOptions


def attach(model: nn.Module, options: LoraOptions, base_checkpoint: Path, seed: int) -> PeftModel:
    """Insert adapters into ``model`` (in place), freeze the rest, and return peft's handle on it.

    Dropout is 0: the policy and the reference must differ by the adapter only. The second factor starts at
    zero, so that the adapted model equals its base.
    """
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=options.targets,
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base_checkpoint)
    adapted.eval()
    return adapted


def adapter_parameters(adapted: PeftModel) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, in a fixed order."""
    return {name: p for name, p in sorted(adapted.named_parameters()) if p.requires_grad}


def checkpoint_activations(adapted: PeftModel) -> None:
    """Recompute the decoder's activations in the backward pass instead of keeping them: memory for time.

    The decoder's are most of a large model's activations. It is put in training mode, which the library asks
    for; it has no dropout, so its values stay the same.
    """
    decoder: Any = adapted.get_base_model().language_model
    decoder.activation_checkpointing_enable({"use_reentrant": False})
    decoder.train()


@contextmanager
def reference(adapted: PeftModel) -> Iterator[None]:
    """Run the policy with the adapter switched off: the reference policy without a second model."""
    with adapted.disable_adapter():
        yield


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; the folder is complete or absent."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    adapted.save_pretrained(str(partial), save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
