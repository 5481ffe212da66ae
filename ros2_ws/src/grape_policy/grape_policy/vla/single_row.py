"""Decoder steps for one row on the processor, where each tensor-library call costs more than its work.

All is done in NumPy on the memory of the tensors: its calls cost a tenth, its products with a vector a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Row = NDArray[np.float32]
Turns = tuple[Tensor, Tensor]  # cosines and signed sines of all positions (length, head_dim)
LARGEST_PRODUCT = 2**18  # weights; beyond it NumPy's library uses several threads, and calls cost little


class _Product:
    """``weight @ input`` into a kept array; write to ``input`` before calling."""

    def __init__(self, weight: Tensor) -> None:
        self.weight: Row = weight.numpy()
        self.input: Row = np.empty(weight.shape[1], np.float32)
        self.output: Row = np.empty(weight.shape[0], np.float32)

    def __call__(self) -> Row:
        return np.dot(self.weight, self.input, out=self.output)


def _normalise(x: Row, weight: Row, eps: float, out: Row) -> None:
    """Root-mean-square norm of ``x`` (D,) into ``out`` (D,)."""
    scale = (float(np.dot(x, x)) / len(x) + eps) ** -0.5
    np.multiply(x, weight, out=out)
    out *= np.float32(scale)


class _Layer:
    """A layer of ``decoder.py`` for one row of states; it reads and extends that layer's cache."""

    def __init__(self, layer: Any, eps: float) -> None:
        self.layer, self.eps = layer, eps
        self.heads, self.head_dim = layer.heads[0], layer.head_dim
        self.norm1, self.norm2 = layer.norm1.weight.numpy(), layer.norm2.weight.numpy()
        parts = (layer.qkv, layer.output, layer.gate_up, layer.down)
        self.qkv, self.output, self.gate_up, self.down = (_Product(part.weight) for part in parts)
        self.scale = np.float32(self.head_dim**-0.5)

    def __call__(self, x: Row, cos: Row, sin: Row, position: int) -> None:
        """Update the state ``x`` (D,) in place; ``cos`` and ``sin`` (2, head_dim / 2) are of ``position``."""
        _normalise(x, self.norm1, self.eps, self.qkv.input)
        np.copyto(self.output.input, self._attend(self.qkv(), cos, sin, position))
        x += self.output()
        _normalise(x, self.norm2, self.eps, self.gate_up.input)
        gate, up = self.gate_up().reshape(2, -1)
        np.divide(gate * up, 1.0 + np.exp(-gate), out=self.down.input)
        x += self.down()

    def _attend(self, packed: Row, cos: Row, sin: Row, position: int) -> Row:
        heads, size = self.heads, self.head_dim
        packed = packed.reshape(3 * heads, size)
        rotating = packed[: 2 * heads].reshape(2 * heads, 2, size // 2)
        rotated = rotating * cos
        rotated += rotating[:, ::-1] * sin
        rotated = rotated.reshape(2 * heads, size)
        cache = self.layer.cache.numpy()[0]
        cache[:heads, position], cache[heads:, position] = rotated[heads:], packed[2 * heads :]
        keys, values = cache[:heads, : position + 1], cache[heads:, : position + 1]
        scores = np.matmul(keys, (rotated[:heads] * self.scale)[:, :, None])
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        attended: Row = np.matmul(scores.transpose(0, 2, 1), values).reshape(-1)
        return attended


class SingleRowDecoder:
    """All layers, the last norm and the product with the vocabulary."""

    def __init__(self, layers: Sequence[Any], norm: Any, table: Tensor, head: Tensor, turns: Turns) -> None:
        self.layers = [_Layer(layer, norm.eps) for layer in layers]
        self.norm, self.eps = norm.weight.numpy(), norm.eps
        self.table, self.head = table.numpy(), _Product(head)
        self.cos, self.sin = (turn.numpy().reshape(len(turn), 2, -1) for turn in turns)

    @classmethod
    def of(
        cls, layers: Sequence[Any], norm: Any, table: Tensor, head: Tensor, turns: Turns
    ) -> SingleRowDecoder | None:
        """Return the decoder of ``decoder.py``'s layers, or None where it would not pay or does not fit."""
        products = [head] + [part.weight for layer in layers for part in (layer.qkv, layer.gate_up)]
        plain = all(w is not None and w.device.type == "cpu" and w.dtype == torch.float32 for w in products)
        small = plain and all(weight.numel() <= LARGEST_PRODUCT for weight in products)
        same_heads = all(layer.heads[0] == layer.heads[1] for layer in layers)
        return cls(layers, norm, table, head, turns) if small and same_heads else None

    def __call__(self, token: int, position: int) -> Row:
        """Feed ``token`` at ``position``; return the next logits (V,), a new array."""
        state = self.table[token].copy()
        cos, sin = self.cos[position], self.sin[position]
        for layer in self.layers:
            layer(state, cos, sin, position)
        _normalise(state, self.norm, self.eps, self.head.input)
        return self.head().copy()
