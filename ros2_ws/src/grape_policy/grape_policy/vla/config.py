"""Sizes of one model, read from a checkpoint's ``config.json``.

The same classes describe the released 7B checkpoints (towers given by their timm names), the laptop-size
model and the test models (towers given by their numbers under the key ``towers``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ACTION_DIMENSIONS = 7


class ConfigError(ValueError):
    """A ``config.json`` that describes no model this code can build; the message says which key and why."""


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer. Features come from the second-to-last of its ``depth`` blocks."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_hidden: int
    register_tokens: int = 0
    class_token: bool = False
    layer_scale: bool = False
    stem: str = (
        "patch"  # "patch": one strided convolution; "convolution": stride-2 convolutions (small models)
    )

    @property
    def patches(self) -> int:
        """Number of patches N of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def executed_blocks(self) -> int:
        """Blocks that run: the last one, and the norm after it, never contribute to the features."""
        return self.depth - 1


@dataclass(frozen=True)
class TextConfig:
    """The Llama decoder; defaults are Llama-2-7B with OpenVLA's padded vocabulary."""

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    pad_token_id: int = 32000
    bos_token_id: int = 1
    eos_token_id: int = 2


KNOWN_TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": TowerConfig(
        224, 14, 1024, 24, 16, 4096, register_tokens=4, class_token=True, layer_scale=True
    ),
    "vit_so400m_patch14_siglip_224": TowerConfig(224, 14, 1152, 27, 16, 4304),
}


@dataclass(frozen=True)
class VlaConfig:
    """Everything that fixes the shapes and the token arithmetic of one model."""

    towers: tuple[TowerConfig, TowerConfig]
    text: TextConfig
    name: str = "openvla"
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64
    prompt_style: str = "openvla"  # "openvla" or "vicuna" (the v01 model)
    norm_stats: dict[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """Vocabulary size without padding; the action ids are the last ``n_action_bins`` of it."""
        return self.text.vocab_size - self.pad_to_multiple_of

    @property
    def action_ids(self) -> range:
        """The token ids that stand for action bins, lowest id first (highest bin value first)."""
        return range(self.vocabulary - self.n_action_bins, self.vocabulary)

    @property
    def patches(self) -> int:
        """Number of image positions in the decoder's sequence."""
        return self.towers[0].patches

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return {
            "model_type": "openvla",
            "name": self.name,
            "towers": [asdict(tower) for tower in self.towers],
            "text_config": {"model_type": "llama", **asdict(self.text)},
            "n_action_bins": self.n_action_bins,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "prompt_style": self.prompt_style,
            "norm_stats": self.norm_stats,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], name: str = "openvla") -> VlaConfig:
        """Read a ``config.json``, ours or a published one.

        Raises:
            ConfigError: a key is missing, of an unknown kind or inconsistent with the others.
        """
        config = cls(
            towers=_towers(document),
            text=_text(document.get("text_config")),
            name=str(document.get("name") or name),
            n_action_bins=int(document.get("n_action_bins", 256)),
            pad_to_multiple_of=int(document.get("pad_to_multiple_of", 64)),
            prompt_style=_prompt_style(document),
            norm_stats=dict(document.get("norm_stats") or {}),
        )
        _check(config)
        return config


def _prompt_style(document: Mapping[str, Any]) -> str:
    vicuna = str(document.get("llm_backbone_id", "")).startswith("vicuna")
    return str(document.get("prompt_style") or ("vicuna" if vicuna else "openvla"))


def _towers(document: Mapping[str, Any]) -> tuple[TowerConfig, TowerConfig]:
    if "towers" in document:
        towers = [_build(TowerConfig, entry, "towers") for entry in document["towers"]]
    else:
        names = document.get("timm_model_ids") or []
        unknown = [name for name in names if name not in KNOWN_TOWERS]
        if unknown:
            raise ConfigError(f"unknown vision towers {unknown}; known: {sorted(KNOWN_TOWERS)}")
        towers = [KNOWN_TOWERS[name] for name in names]
    if len(towers) != 2:
        raise ConfigError(f"config needs two vision towers (towers or timm_model_ids), found {len(towers)}")
    return towers[0], towers[1]


def _text(entry: Any) -> TextConfig:
    if not isinstance(entry, Mapping):
        raise ConfigError("text_config is missing: it describes the Llama decoder")
    if entry.get("model_type", "llama") != "llama" or entry.get("rope_scaling"):
        raise ConfigError("text_config must be a Llama without rope_scaling")
    known = {f.name for f in fields(TextConfig)}
    return _build(TextConfig, {key: value for key, value in entry.items() if key in known}, "text_config")


def _build(kind: type, entry: Any, where: str) -> Any:
    try:
        return kind(**entry)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check(config: VlaConfig) -> None:
    problems = []
    if config.towers[0].patches != config.towers[1].patches:
        problems.append("the two towers give different numbers of patches")
    if config.towers[0].image_size != config.towers[1].image_size:
        problems.append("the two towers take different image sizes")
    for tower in config.towers:
        if tower.image_size % tower.patch_size or tower.width % tower.heads or tower.depth < 2:
            problems.append(f"impossible tower {tower}")
        if tower.stem not in ("patch", "convolution"):
            problems.append(f"unknown stem {tower.stem!r}")
    if config.text.hidden_size % config.text.num_attention_heads:
        problems.append("hidden_size is no multiple of num_attention_heads")
    if config.vocabulary <= config.n_action_bins:
        problems.append("vocab_size is too small for the action bins and the padding")
    if config.prompt_style not in ("openvla", "vicuna"):
        problems.append(f"unknown prompt_style {config.prompt_style!r}")
    if problems:
        raise ConfigError("; ".join(problems))


def small_config(
    text_tokens: int,
    *,
    name: str = "grape-small",
    image_size: int = 112,
    patch_size: int = 16,
    tower_width: int = 128,
    tower_blocks: int = 4,
    hidden_size: int = 192,
    layers: int = 4,
    stem: str = "patch",
) -> VlaConfig:
    """Return the laptop-size configuration for a tokenizer of ``text_tokens`` tokens.

    The vocabulary is laid out as OpenVLA's: text, then 256 action ids up to a multiple of 64, then 64 of
    padding. ``tower_blocks`` counts the blocks that run; ``stem`` "convolution" learns faster from scratch.
    """
    vocabulary = -(-(text_tokens + 256) // 64) * 64
    heads = max(1, tower_width // 32)
    tower = TowerConfig(
        image_size, patch_size, tower_width, tower_blocks + 1, heads, 4 * tower_width, stem=stem
    )
    first = TowerConfig(**{**asdict(tower), "register_tokens": 4, "class_token": True, "layer_scale": True})
    text = TextConfig(
        vocab_size=vocabulary + 64,
        hidden_size=hidden_size,
        intermediate_size=-(-8 * hidden_size // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        max_position_embeddings=512,
        pad_token_id=vocabulary,
    )
    return VlaConfig(towers=(first, tower), text=text, name=name)
