"""Log-probabilities of given action tokens: what SFT and TPO differentiate and inference must agree with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def action_log_probabilities(
    model: nn.Module, pixel_values: Tensor, prompt_ids: Sequence[Sequence[int]], token_ids: Tensor
) -> Tensor:
    """Return log pi(token) (B, T) float32 under the full-vocabulary softmax at temperature 1, differentiable.

    Args:
        model: an ``OpenVla``, plain or wrapped by peft.
        pixel_values: (B, 6, h, w) normalised.
        prompt_ids: one prompt per row, BOS first, of any lengths.
        token_ids: (B, T) the tokens that were emitted.
    """
    logits = model(pixel_values, prompt_ids, token_ids).logits
    return logits.log_softmax(dim=-1).gather(2, token_ids[..., None]).squeeze(2)
