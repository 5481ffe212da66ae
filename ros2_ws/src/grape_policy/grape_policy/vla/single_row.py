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
    """A layer of ``decoder.py`` for one row of states; it reads and extends that layer's cache.

    All arrays and their views are made once: making a view costs as much as using it.
    """

    def __init__(self, layer: Any) -> None:
        self.layer, heads, size = layer, layer.heads[0], layer.head_dim
        self.scale = np.float32(size**-0.5)
        self.norm1, self.norm2 = _Norm(layer.norm1), _Norm(layer.norm2)
        parts = (layer.qkv, layer.output, layer.gate_up, layer.down)
        self.qkv, self.output, self.gate_up, self.down = map(_Product, parts)
        packed = self.qkv.output.reshape(3, heads, size)
        self.values = packed[2]
        self.turning = packed[:2].reshape(2 * heads, 2, size // 2)
        self.swapped, self.turned = self.turning[:, ::-1], np.empty_like(self.turning)
        self.query, self.key = self.turned.reshape(2, heads, size)
        self.attended = self.output.input.reshape(heads, 1, size)
        self.gate, self.up = self.gate_up.output.reshape(2, -1)
        self.shrink = np.empty_like(self.gate)

    def __call__(self, x: Row, cos: Row, sin: Row, position: int) -> None:
        """Update the state ``x`` (D,) in place; ``cos`` and ``sin`` (2, head_dim / 2) are of ``position``."""
        self.norm1(x, self.qkv.input)
        self.qkv()
        self._attend(cos, sin, position)
        x += self.output()
        self.norm2(x, self.gate_up.input)
        self.gate_up()
        self._activate()
        x += self.down()

    def _attend(self, cos: Row, sin: Row, position: int) -> None:
        """Turn query and key, store key and value, and write what the query finds to the output's input."""
        np.multiply(self.turning, cos, out=self.turned)
        np.multiply(self.swapped, sin, out=self.turning)
        self.turned += self.turning
        self.query *= self.scale
        keys, values = self.layer.cache.numpy()[:, 0, :, : position + 1]
        keys[:, position], values[:, position] = self.key, self.values
        scores = np.matmul(keys, self.query[:, :, None])[:, None, :, 0]
        scores -= scores.max(axis=2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=2, keepdims=True)
        np.matmul(scores, values, out=self.attended)

    def _activate(self) -> None:
        """Write ``up * gate / (1 + exp(-gate))`` to the last product's input."""
        np.negative(self.gate, out=self.shrink)
        np.exp(self.shrink, out=self.shrink)
        self.shrink += 1.0
        self.gate *= self.up
        np.divide(self.gate, self.shrink, out=self.down.input)


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
