"""Matrix products over a model's linear layers, for inference only.

``SharedProduct`` uses the weights where they are. ``FoldedProduct`` copies them, transposed, which is read a
quarter faster, and with neighbouring factors multiplied in. That pays for small models on the processor,
where a call costs as much as its work. Build either anew after the weights have changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

LARGEST_FOLDED = 2**18  # numbers of a weight; beyond it the copies cost memory and gain nothing


def foldable(modules: Iterable[nn.Module]) -> bool:
    """Say whether all linear layers in ``modules`` are plain, small, in float32 and on the processor."""
    layers = [part for module in modules for part in module.modules() if hasattr(part, "in_features")]
    weights = [layer.weight for layer in layers if type(layer) is nn.Linear]
    return len(weights) == len(layers) and all(
        weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() <= LARGEST_FOLDED
        for weight in weights
    )


class RmsNorm:
    """Root-mean-square norm over the last axis, by the fused kernel of the device."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FoldedNorm:
    """The same in half the time but for the factors ``rest`` (D,), which the next product takes in."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.rest = weight * math.sqrt(len(weight))
        self.floor = torch.tensor(math.sqrt(len(weight) * eps))

    def __call__(self, x: Tensor) -> Tensor:
        """Divide each row of ``x`` (N, D) by its length; ``floor`` keeps short ones finite."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.floor)


class FoldedProduct:
    """Linear layers of the same input as one, the input and the output multiplied by factors."""

    def __init__(
        self, *linears: nn.Linear, inputs: Tensor | None = None, outputs: Tensor | None = None
    ) -> None:
        weight = torch.cat([linear.weight.data for linear in linears]).t()
        biases = [linear.bias.data for linear in linears if linear.bias is not None]
        ones = weight.new_ones(())
        inputs, outputs = ones if inputs is None else inputs[:, None], ones if outputs is None else outputs
        self.weight = (weight * inputs * outputs).contiguous()  # (inputs, sum of outputs)
        self.bias = torch.cat(biases) * outputs if biases else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, inputs) to (N, sum of outputs)."""
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def added_to(self, state: Tensor, x: Tensor) -> Tensor:
        """Return ``state`` (N, outputs) plus the map of ``x`` (N, inputs)."""
        result = torch.addmm(state, x, self.weight)
        return result if self.bias is None else result.add_(self.bias)


class SharedProduct:
    """Linear layers of one input, without bias, as one where they are plain; quantised ones run in turn."""

    def __init__(self, *linears: nn.Linear) -> None:
        self.linears = linears
        self.weight = _fuse(linears) if all(type(linear) is nn.Linear for linear in linears) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, inputs) to (N, sum of outputs)."""
        if self.weight is not None:
            return torch.mm(x, self.weight.t())
        return torch.cat([linear(x) for linear in self.linears], dim=-1)

    def added_to(self, state: Tensor, x: Tensor) -> Tensor:
        """Return ``state`` (N, outputs) plus the map of ``x`` (N, inputs)."""
        return state + self(x) if self.weight is None else torch.addmm(state, x, self.weight.t())


def normed_product(
    norm: LlamaRMSNorm, folded: bool, *linears: nn.Linear
) -> tuple[RmsNorm | FoldedNorm, FoldedProduct | SharedProduct]:
    """Return a Llama's root-mean-square ``norm`` and the product of the linear layers that follow it."""
    weight, eps = norm.weight.data, float(norm.variance_epsilon)
    if not folded:
        return RmsNorm(weight, eps), SharedProduct(*linears)
    short = FoldedNorm(weight, eps)
    return short, FoldedProduct(*linears, inputs=short.rest)


def _fuse(linears: Sequence[nn.Linear]) -> Tensor:
    """Return the stacked weights (sum of outputs, inputs); the layers then share that storage."""
    if len(linears) == 1:
        return linears[0].weight.data
    fused = torch.cat([linear.weight.data for linear in linears])
    rows = fused.split([linear.out_features for linear in linears])
    for linear, part in zip(linears, rows, strict=True):
        linear.weight.data = part
    return fused
