"""OpenVLA: two vision towers, a projector and a Llama decoder, with the published parameter names.

The decoder reads BOS, the image patches, the rest of the prompt and the action tokens. Rows of a batch may
have prompts of different lengths: they are padded on the right, where causal attention never looks, so that
every row gives what it gives alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from grape_policy.vla.config import TextConfig, VlaConfig
from grape_policy.vla.vit import VisionTransformer


@dataclass
class VlaOutput:
    """What one training forward gives; decoder states and logits only where action tokens are predicted."""

    patches: Tensor  # (B, N, D) projected patch features
    hidden: Tensor  # (B, T, D) decoder states; [:, 0] is the one at the last prompt position
    logits: Tensor  # (B, T, V) float32; [:, t] predicts token t


class VisionBackbone(nn.Module):
    """Both towers; features are concatenated on channels."""

    def __init__(self, config: VlaConfig) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(config.towers[0])
        self.fused_featurizer = VisionTransformer(config.towers[1])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map pixels (B, 6, h, w), three channels per tower, to features (B, N, width0 + width1)."""
        first, second = pixel_values.split(3, dim=1)
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=2)


class Projector(nn.Module):
    """Vision features to decoder embeddings: three linear layers, exact GELU between."""

    def __init__(self, vision: int, text: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, text)
        self.fc3 = nn.Linear(text, text)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, N, vision) to (B, N, text)."""
        return cast(Tensor, self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features))))))


def llama_config(text: TextConfig) -> LlamaConfig:
    """Return the library's configuration of our decoder."""
    config = LlamaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads or text.num_attention_heads,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    config._attn_implementation = "sdpa"
    return config


class OpenVla(nn.Module):
    """The whole model. Build it on the meta device to load weights without initialising them first."""

    def __init__(self, config: VlaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(sum(tower.width for tower in config.towers), config.text.hidden_size)
        self.language_model = LlamaForCausalLM(llama_config(config.text))

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """Map pixels (B, 6, h, w) to the towers' features (B, N, width0 + width1)."""
        return cast(Tensor, self.vision_backbone(pixel_values))

    def project(self, features: Tensor) -> Tensor:
        """Map tower features to decoder embeddings (B, N, D)."""
        return cast(Tensor, self.projector(features))

    def embed(self, ids: Tensor, patches: Tensor) -> Tensor:
        """Return the decoder's input (B, N + L, D): BOS, patches, the rest of ``ids`` (B, L)."""
        text = self.language_model.get_input_embeddings()(ids)
        return torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)

    def forward_features(
        self, pixel_values: Tensor, prompt_ids: Sequence[Sequence[int]], token_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return projected patches (B, N, D) and the states (B, T, D) that predict ``token_ids`` (B, T).

        Args:
            pixel_values: (B, 6, h, w), normalised, from ``Preprocessor``.
            prompt_ids: one prompt per row, BOS first, of any lengths (from ``VlaTokenizer.prompt_ids``).
            token_ids: (B, T) the action tokens, teacher-forced; T is 7, or 8 with the end token.
        """
        patches = self.project(self.patch_features(pixel_values))
        ids, lengths = self._pad(prompt_ids, token_ids)
        states = self.language_model.model(inputs_embeds=self.embed(ids, patches), use_cache=False)
        steps = torch.arange(token_ids.shape[1], device=ids.device)
        positions = (lengths[:, None] - 1 + patches.shape[1]) + steps
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        return patches, states.last_hidden_state[rows, positions]

    def forward(
        self, pixel_values: Tensor, prompt_ids: Sequence[Sequence[int]], token_ids: Tensor
    ) -> VlaOutput:
        """Return features, decoder states and full-vocabulary logits of the action tokens (one vision pass).

        Arguments as for ``forward_features``.
        """
        patches, hidden = self.forward_features(pixel_values, prompt_ids, token_ids)
        return VlaOutput(patches, hidden, self.language_model.lm_head(hidden).float())

    def _pad(self, prompt_ids: Sequence[Sequence[int]], token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompts and all but the last action token, padded on the right, and the prompt lengths."""
        lengths = torch.tensor([len(prompt) for prompt in prompt_ids])
        steps = token_ids.shape[1] - 1
        ids = torch.full((len(lengths), int(lengths.max()) + steps), self.config.text.pad_token_id)
        for row, prompt in enumerate(prompt_ids):
            ids[row, : len(prompt)] = torch.as_tensor(prompt)
            ids[row, len(prompt) : len(prompt) + steps] = token_ids[row, :steps]
        return ids.to(token_ids.device), lengths.to(token_ids.device)
