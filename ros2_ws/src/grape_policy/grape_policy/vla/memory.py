"""Memory budget of a model from its config alone: weights, adapter and optimiser, activations, cache.

Bytes follow the tensors that PyTorch keeps: bfloat16 activations, the library's float32 RMS norms, and the
float32 copies that peft makes of every adapted layer's input. CUDA's own context is taken as 0.5 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from grape_policy.vla.config import ACTION_DIMENSIONS, TowerConfig, VlaConfig
from grape_policy.vla.model import OpenVla

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
FOUR_BIT = 0.516  # bytes per weight: NF4 and its doubly quantised scales
CONTEXT = 0.5 * GIB
TRAINED = 16.0  # bytes per trained weight: float32 weight, gradient, two moments of Adam
PROMPT_TOKENS = 32
CARDS = (24, 16)  # GiB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each part; activations are of one sample (one step of one trajectory)."""

    parameters: int
    decoder_parameters: int  # linear layers of the decoder's blocks: what 4-bit quantisation takes
    adapter_parameters: int
    activations: float
    activations_checkpointed: float
    recomputed: float  # of one sample: the largest block, while checkpointing computes it again
    cache: float  # key-value cache of one row, 16-bit

    def weights(self, dtype: str) -> float:
        """Return the bytes of all weights; ``dtype``: a key of ``BYTES``, or "4bit" (decoder blocks only)."""
        if dtype == "4bit":
            return FOUR_BIT * self.decoder_parameters + 2.0 * (self.parameters - self.decoder_parameters)
        return BYTES[dtype] * self.parameters

    def inference(self, dtype: str, rows: int = 1) -> float:
        """Return the bytes of acting on ``rows`` images at once: one block's activations live at a time."""
        return self.weights(dtype) + CONTEXT + rows * (self.cache + self.recomputed)

    def training(self, dtype: str, rows: int, checkpointing: bool = True) -> float:
        """Return the bytes of training an adapter with ``rows`` samples per backward pass."""
        kept = self.activations_checkpointed + self.recomputed if checkpointing else self.activations
        return self.weights(dtype) + CONTEXT + TRAINED * self.adapter_parameters + rows * kept


def estimate(config: VlaConfig, rank: int = 32) -> MemoryEstimate:
    """Return the budget of the model of ``config``, with LoRA of ``rank`` on all linear layers."""
    with torch.device("meta"):
        model = OpenVla(config)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    blocks = [m.weight.numel() for n, m in linears.items() if n.startswith("language_model.model.layers.")]
    text = config.text
    length = config.patches + PROMPT_TOKENS + ACTION_DIMENSIONS
    heads = text.num_key_value_heads or text.num_attention_heads
    head_dim = text.hidden_size // text.num_attention_heads
    towers = [(tower, _tower_bytes(tower)) for tower in config.towers]
    layer = length * _layer_bytes(text.hidden_size, text.intermediate_size)
    logits = 14.0 * (ACTION_DIMENSIONS + 1) * text.vocab_size
    inputs = 2.0 * length * text.hidden_size * text.num_hidden_layers
    tower_inputs = sum(2.0 * _tokens(t) * t.width * t.executed_blocks for t in config.towers)
    return MemoryEstimate(
        parameters=sum(p.numel() for p in model.parameters()),
        decoder_parameters=sum(blocks),
        adapter_parameters=sum(rank * (m.weight[0].numel() + m.weight.shape[0]) for m in linears.values()),
        activations=layer * text.num_hidden_layers + logits + sum(t.executed_blocks * b for t, b in towers),
        activations_checkpointed=inputs + tower_inputs + logits,
        recomputed=max(layer, *(size for _, size in towers)),
        cache=4.0 * text.num_hidden_layers * heads * head_dim * length,
    )


def _layer_bytes(hidden: int, inner: int) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass."""
    kept = 2 * (10 * hidden + 4 * inner)  # states, norms, q k v and their rotations, gate, up, product
    norms = 2 * 2 * 4 * hidden  # input and normalised input of two RMS norms in float32
    copies = 4 * (6 * hidden + inner)  # float32 inputs of the seven adapters
    return float(kept + norms + copies)


def _tokens(tower: TowerConfig) -> int:
    return tower.patches + tower.register_tokens + int(tower.class_token)


def _tower_bytes(tower: TowerConfig) -> float:
    """Bytes that one block of a tower keeps for its backward pass."""
    return _tokens(tower) * 2.0 * (11 * tower.width + 2 * tower.mlp_hidden)


def budget_rows(found: MemoryEstimate) -> list[tuple[str, float]]:
    """Return name and bytes of the usual ways to use a model."""
    return [
        ("weights, float32", found.weights("float32")),
        ("weights, bfloat16 or float16", found.weights("bfloat16")),
        ("weights, 4-bit decoder", found.weights("4bit")),
        ("LoRA (rank 32) with gradient and Adam", TRAINED * found.adapter_parameters),
        ("activations of one step, kept", found.activations),
        ("activations of one step, checkpointed", found.activations_checkpointed),
        ("key-value cache of one row", found.cache),
        ("act, bfloat16", found.inference("bfloat16")),
        ("act, bfloat16, 16 rows", found.inference("bfloat16", 16)),
        ("act, 4-bit", found.inference("4bit")),
        ("train LoRA, bfloat16, checkpointed, micro-batch 8", found.training("bfloat16", 8)),
        ("train LoRA, bfloat16, kept, micro-batch 1", found.training("bfloat16", 1, checkpointing=False)),
        ("train LoRA, 4-bit, checkpointed, micro-batch 8", found.training("4bit", 8)),
    ]


def budget_table(config: VlaConfig) -> str:
    """Return the budget as a Markdown table, with the cards that each use fits."""
    head = "| | GiB | " + " | ".join(f"{card} GB card" for card in CARDS) + " |"
    lines = [head, "|---|---" + "|---" * len(CARDS) + "|"]
    for name, size in budget_rows(estimate(config)):
        use = name.startswith(("act,", "train"))
        fits = [("fits" if size < 0.97 * card * GIB else "no") if use else "" for card in CARDS]
        lines.append(f"| {name} | {size / GIB:.2f} | " + " | ".join(fits) + " |")
    return "\n".join(lines) + "\n"


def released_7b() -> VlaConfig:
    """Return the sizes of the released OpenVLA and GRAPE checkpoints."""
    names = ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
    return VlaConfig.from_dict({"timm_model_ids": names, "text_config": {"vocab_size": 32064}})
