"""One decoder step for one row on the processor, where each tensor-library call costs more than its work.

The products with the weights stay in the tensor library; everything small is done in NumPy on shared memory,
whose calls cost a tenth (three times faster per step at the laptop model's size).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Row = NDArray[np.float32]


class _Product:
    """``weight @ input`` into a kept array; write to ``input`` before calling."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._input, self._output = weight.new_empty(weight.shape[1]), weight.new_empty(weight.shape[0])
        self.input: Row = self._input.numpy()
        self.output: Row = self._output.numpy()

    def __call__(self) -> Row:
        torch.mv(self.weight, self._input, out=self._output)
        return self.output


class SingleRowLayer:
    """A layer of ``decoder.py`` for one row of float32 states; it reads and extends that layer's cache."""

    def __init__(self, layer: Any, eps: float) -> None:
        self.layer, self.eps = layer, eps
        self.heads, self.head_dim = layer.heads[0], layer.head_dim
        self.norm1, self.norm2 = layer.norm1.weight.numpy(), layer.norm2.weight.numpy()
        self.qkv, self.output = _Product(layer.qkv), _Product(layer.output.t())
        self.gate_up, self.down = _Product(layer.gate_up), _Product(layer.down.t())
        self.scale = np.float32(self.head_dim**-0.5)

    @staticmethod
    def supports(layer: Any) -> bool:
        """Say whether weights and heads of ``layer`` are of the kind this class computes."""
        weight = layer.qkv
        same_heads = layer.heads[0] == layer.heads[1]
        return bool(same_heads and weight.device.type == "cpu" and weight.dtype == torch.float32)

    def __call__(self, x: Row, cos: Row, sin: Row, position: int) -> None:
        """Update the state ``x`` (D,) in place; ``cos`` and ``sin`` (head_dim,) are those of ``position``."""
        self._normalise(x, self.norm1, self.qkv.input)
        np.copyto(self.output.input, self._attend(self.qkv(), cos, sin, position))
        x += self.output()
        self._normalise(x, self.norm2, self.gate_up.input)
        gate, up = self.gate_up().reshape(2, -1)
        np.divide(gate * up, 1.0 + np.exp(-gate), out=self.down.input)
        x += self.down()

    def _normalise(self, x: Row, weight: Row, out: Row) -> None:
        scale = (float(np.dot(x, x)) / len(x) + self.eps) ** -0.5
        np.multiply(x, weight, out=out)
        out *= np.float32(scale)

    def _attend(self, packed: Row, cos: Row, sin: Row, position: int) -> Row:
        heads, size = self.heads, self.head_dim
        packed = packed.reshape(3 * heads, size)
        rotating = packed[: 2 * heads]
        swapped = rotating.reshape(2 * heads, 2, size // 2)[:, ::-1].reshape(2 * heads, size)
        rotated = rotating * cos + swapped * sin
        cache = self.layer.cache.numpy()[0]
        cache[:heads, position], cache[heads:, position] = rotated[heads:], packed[2 * heads :]
        keys, values = cache[:heads, : position + 1], cache[heads:, : position + 1]
        scores = np.einsum("hd,hld->hl", rotated[:heads] * self.scale, keys)
        scores -= scores.max(axis=1, keepdims=True)
        weights = np.exp(scores)
        weights /= weights.sum(axis=1, keepdims=True)
        attended: Row = np.einsum("hl,hld->hd", weights, values).reshape(-1)
        return attended
