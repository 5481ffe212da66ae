"""4-bit decoder layers through bitsandbytes; the only place that imports it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_BLOCKS = "language_model.model.layers."
_BLOCK_SIZE = 64  # numbers that share a scale


def quantised_here(name: str, tensor: Tensor) -> bool:
    """Say whether the tensor ``name`` is a linear layer's weight in a decoder block, of whole blocks of 64.

    The library's kernel for the processor fails where a scale's block runs over the end of a row.
    """
    return name.startswith(_BLOCKS) and tensor.ndim == 2 and tensor.shape[1] % _BLOCK_SIZE == 0


def quantised_linear(weight: Tensor, device: str) -> nn.Module:
    """Return a linear layer without bias that keeps ``weight`` (out, in) as NF4 on ``device``.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError as error:
        raise ValueError(f"precision 4bit: {error}; pip install bitsandbytes, or use bfloat16") from error
    layer = Linear4bit(
        weight.shape[1], weight.shape[0], bias=False, compute_dtype=torch.bfloat16, device="meta"
    )
    packed: Any = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    layer.weight = packed.to(torch.device(device))  # quantises on the way
    return layer
