"""The two vision transformers, with the parameter names of the published OpenVLA checkpoints.

``featurizer`` is DINOv2-style (class and register tokens, LayerScale), ``fused_featurizer`` is SigLIP-style
(patches only). Both give the output of their second-to-last block, without a final norm and prefix tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grape_policy.vla.config import TowerConfig

LAYER_NORM_EPS = 1e-6


class LayerScale(nn.Module):
    """Multiply each channel by a learnt factor (published under the name ``scale_factor``)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x`` (..., width)."""
        return x * self.scale_factor


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within ``x`` (B, L, width)."""
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, self.proj(attended.transpose(1, 2).reshape(batch, length, width)))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., width) to the same shape."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.width, config.heads)
        self.ls1: nn.Module = LayerScale(config.width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.width, config.mlp_hidden)
        self.ls2: nn.Module = LayerScale(config.width) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, width) to the same shape."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return cast(Tensor, x + self.ls2(self.mlp(self.norm2(x))))


class PatchEmbed(nn.Module):
    """Image to patch tokens: one strided convolution, or stride-2 convolutions before a smaller one."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        halvings = config.patch_size.bit_length() - 1 if config.stem == "convolution" else 0
        if halvings and config.patch_size != 1 << halvings:
            raise ValueError(f"a convolution stem needs a power-of-two patch size, got {config.patch_size}")
        channels = [3] + [max(16, config.width >> (halvings - i)) for i in range(halvings)]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GELU()]
        if layers:
            self.stem = nn.Sequential(*layers)
        kernel = config.patch_size if not layers else config.patch_size >> (len(channels) - 1)
        self.proj = nn.Conv2d(channels[-1], config.width, kernel, kernel)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels (B, 3, h, w) to tokens (B, N, width), row by row."""
        if hasattr(self, "stem"):
            pixels = self.stem(pixels.contiguous(memory_format=torch.channels_last))  # a third faster
        return cast(Tensor, self.proj(pixels).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    """One tower; only the blocks that contribute to its features exist."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches, config.width))
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        if config.register_tokens:
            self.reg_token = nn.Parameter(torch.empty(1, config.register_tokens, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.executed_blocks))
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 or name.endswith(("pos_embed", "_token")):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels (B, 3, h, w) to patch features (B, N, width)."""
        x = self.patch_embed(pixels) + self.pos_embed
        names = [name for name in ("cls_token", "reg_token") if hasattr(self, name)]
        prefix = [getattr(self, name).expand(len(x), -1, -1) for name in names]
        dropped = sum(token.shape[1] for token in prefix)
        x = torch.cat([*prefix, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, dropped:]
