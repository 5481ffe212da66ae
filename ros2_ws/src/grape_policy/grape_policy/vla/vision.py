"""Towers and projector for inference on the processor, where a module's call costs as much as its work.

Gives the numbers of ``vit.py`` and ``model.py`` to rounding, from copies of their weights: transposed, with
the factors of LayerScale and of attention multiplied in.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grape_policy.vla.model import OpenVla
from grape_policy.vla.products import FoldedProduct, foldable
from grape_policy.vla.vit import LAYER_NORM_EPS, Block, LayerScale, PatchEmbed, VisionTransformer


class _Block:
    """A pre-norm transformer block over the tokens of all images, (B * L, width)."""

    def __init__(self, block: Block) -> None:
        attention = block.attn
        self.heads, width = attention.heads, attention.proj.in_features
        scale = torch.ones(3 * width)
        scale[:width] = (width // self.heads) ** -0.5  # of the queries
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv = FoldedProduct(attention.qkv, outputs=scale)
        self.proj = FoldedProduct(attention.proj, outputs=_factor(block.ls1))
        self.fc1 = FoldedProduct(block.mlp.fc1)
        self.fc2 = FoldedProduct(block.mlp.fc2, outputs=_factor(block.ls2))

    def __call__(self, x: Tensor, batch: int) -> Tensor:
        """Map tokens (B * L, width) to the same shape."""
        x = self.proj.added_to(x, self._attend(self.qkv(_norm(x, self.norm1)), batch))
        return self.fc2.added_to(x, F.gelu(self.fc1(_norm(x, self.norm2))))

    def _attend(self, qkv: Tensor, batch: int) -> Tensor:
        """Attend within each image; ``qkv`` (B * L, 3 * width) gives (B * L, width)."""
        packed = qkv.view(batch, len(qkv) // batch, 3 * self.heads, -1).transpose(1, 2)
        query, key, value = packed.chunk(3, dim=1)
        if batch == 1:  # plain products beat the fused kernel at so few tokens
            weights = torch.bmm(query[0], key[0].transpose(1, 2)).softmax(dim=-1)
            attended = torch.bmm(weights, value[0])[None]
        else:
            attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return attended.transpose(1, 2).reshape(len(qkv), -1)


class _Stem:
    """The convolutions from pixels to patch tokens, with weights and pixels laid out channels last."""

    def __init__(self, embed: PatchEmbed) -> None:
        stem = embed.stem if hasattr(embed, "stem") else ()
        self.convolutions = [layer for layer in stem if isinstance(layer, nn.Conv2d)]
        self.weights = [_channels_last(layer.weight.data) for layer in self.convolutions]
        self.kernel, self.bias = embed.proj.kernel_size[0], cast(Tensor, embed.proj.bias)
        self.patch = embed.proj.weight.data.flatten(1).t().contiguous()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels (B, 3, h, w) to tokens (B, N, width), row by row."""
        x = _channels_last(pixels)
        for layer, weight in zip(self.convolutions, self.weights, strict=True):
            x = F.gelu(F.conv2d(x, weight, layer.bias, layer.stride, layer.padding))
        batch, channels, rows, columns = x.shape
        size = self.kernel
        patches = x.view(batch, channels, rows // size, size, columns // size, size)
        flat = patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, len(self.patch))
        return torch.addmm(self.bias, flat, self.patch).view(batch, -1, self.patch.shape[1])


class _Tower:
    """A vision transformer's forward."""

    def __init__(self, tower: VisionTransformer) -> None:
        self.stem, self.positions = _Stem(tower.patch_embed), tower.pos_embed.data
        names = [name for name in ("cls_token", "reg_token") if hasattr(tower, name)]
        self.prefix = torch.cat([getattr(tower, name).data for name in names] or [self.positions[:, :0]], 1)
        self.blocks = [_Block(cast(Block, block)) for block in tower.blocks]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels (B, 3, h, w) to patch features (B, N, width)."""
        patches, batch = self.stem(pixels) + self.positions, len(pixels)
        tokens = torch.cat([self.prefix.expand(batch, -1, -1), patches], dim=1)
        x = tokens.flatten(0, 1)
        for block in self.blocks:
            x = block(x, batch)
        return x.view(tokens.shape)[:, self.prefix.shape[1] :]


class VisionForward:
    """Both towers and the projector. Build it anew after the model's weights have changed."""

    def __init__(self, model: OpenVla) -> None:
        backbone, projector = model.vision_backbone, model.projector
        self.towers = _Tower(backbone.featurizer), _Tower(backbone.fused_featurizer)
        self.projector = [FoldedProduct(fc) for fc in (projector.fc1, projector.fc2, projector.fc3)]

    @classmethod
    def of(cls, model: OpenVla) -> VisionForward | None:
        """Return the forward of ``model``, or None where it would not pay or its layers are not plain."""
        return cls(model) if foldable([model.vision_backbone, model.projector]) else None

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Map pixels (B, 6, h, w), three channels per tower, to decoder embeddings (B, N, D)."""
        pixels = pixel_values.split(3, dim=1)
        features = torch.cat([tower(part) for tower, part in zip(self.towers, pixels, strict=True)], dim=2)
        fc1, fc2, fc3 = self.projector
        x = fc3(F.gelu(fc2(F.gelu(fc1(features.flatten(0, 1))))))
        return x.view(*features.shape[:2], -1)


def _factor(scale: nn.Module) -> Tensor | None:
    return scale.scale_factor.data if isinstance(scale, LayerScale) else None


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, LAYER_NORM_EPS)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
