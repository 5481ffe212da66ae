"""Decoder steps for one row on the processor, where each tensor-library call costs more than its work.

All is done in NumPy on the memory of the tensors: its calls cost a tenth, its products with a vector a half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_policy.vla.products import FoldedNorm, FoldedProduct

Row = NDArray[np.float32]


class _Product:
    """A folded product into a kept array; write to ``input`` before calling."""

    def __init__(self, product: FoldedProduct) -> None:
        self.weight: Row = product.weight.numpy()
        self.input: Row = np.empty(len(self.weight), np.float32)
        self.output: Row = np.empty(self.weight.shape[1], np.float32)

    def __call__(self) -> Row:
        return np.dot(self.input, self.weight, out=self.output)


class _Norm:
    """A ``FoldedNorm`` of one row."""

    def __init__(self, norm: FoldedNorm) -> None:
        self.floor = float(norm.floor) ** 2

    def __call__(self, x: Row, out: Row) -> None:
        """Divide ``x`` (D,) by its length into ``out`` (D,)."""
        np.multiply(x, np.float32((float(np.dot(x, x)) + self.floor) ** -0.5), out=out)


class _Layer:
    """A layer of ``decoder.py`` for one row of states; it reads and extends that layer's cache."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.heads, self.head_dim = layer.heads[0], layer.head_dim
        self.norm1, self.norm2 = _Norm(layer.norm1), _Norm(layer.norm2)
        parts = (layer.qkv, layer.output, layer.gate_up, layer.down)
        self.qkv, self.output, self.gate_up, self.down = map(_Product, parts)
        self.scale = np.float32(self.head_dim**-0.5)

    def __call__(self, x: Row, cos: Row, sin: Row, position: int) -> None:
        """Update the state ``x`` (D,) in place; ``cos`` and ``sin`` (2, head_dim / 2) are of ``position``."""
        self.norm1(x, self.qkv.input)
        np.copyto(self.output.input, self._attend(self.qkv(), cos, sin, position))
        x += self.output()
        self.norm2(x, self.gate_up.input)
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

    def __init__(self, decoder: Any) -> None:
        """Wrap an ``ActionDecoder`` of folded products with as many key-value heads as heads."""
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self.norm, self.head = _Norm(decoder.norm), _Product(decoder.head)
        self.table = decoder.table.weight.detach().numpy()
        self.cos, self.sin = (turn.numpy().reshape(len(turn), 2, -1) for turn in (decoder.cos, decoder.sin))

    def __call__(self, token: int, position: int) -> Row:
        """Feed ``token`` at ``position``; return the next logits (V,), a new array."""
        state = self.table[token].copy()
        cos, sin = self.cos[position], self.sin[position]
        for layer in self.layers:
            layer(state, cos, sin, position)
        self.norm(state, self.head.input)
        return self.head().copy()
