"""Log-probabilities of recorded actions under an adapted VLA, as the losses of ``tpo_gradient`` want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_training.tpo_data import Rollout

if TYPE_CHECKING:
    from grape_policy.vla.preprocess import Preprocessor
    from grape_policy.vla.statistics import ActionStatistics


def active_dimensions(statistics: Mapping[str, ActionStatistics]) -> NDArray[np.bool_]:
    """Return which of the 7 action dimensions can change what the robot does.

    Where q01 equals q99, every token decodes to the same value: its sampled tokens are noise without effect,
    and to prefer some of them over others would only teach that noise. A dimension is left out when it is
    constant under all of a checkpoint's statistics.
    """
    constant = [each.mask & (each.q01 == each.q99) for each in statistics.values()]
    return ~np.logical_and.reduce(constant)


class VlaScorer:
    """Log-probabilities of recorded actions, per step: the sum over the tokens of the active dimensions.

    Args:
        model: the adapted policy.
        preprocessor: its own.
        active: (7,) bool, the dimensions that count; None: all.
        precision: "float32", or "bfloat16" for autocast (the softmax stays in float32).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocessor: Preprocessor,
        active: NDArray[np.bool_] | None = None,
        precision: str = "float32",
    ) -> None:
        self.model = model
        self.preprocessor = preprocessor
        self.active = None if active is None or active.all() else np.flatnonzero(active).tolist()
        self.device = next(model.parameters()).device
        self.mixed = precision == "bfloat16"

    def __call__(self, rollout: Rollout, start: int, stop: int) -> Tensor:
        """Return (stop - start,) log pi(a_t | o_t, q), differentiable."""
        from grape_policy.vla.scoring import action_log_probabilities

        images = torch.from_numpy(rollout.images[start:stop]).to(self.device)
        tokens = torch.from_numpy(rollout.token_ids[start:stop]).to(self.device)
        prompts = [rollout.prompt_ids] * (stop - start)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            pixels = self.preprocessor.normalise(images)
            found = action_log_probabilities(self.model, pixels, prompts, tokens)
        return (found if self.active is None else found[:, self.active]).sum(dim=1)

    def values(self, rollout: Rollout, start: int, stop: int) -> np.ndarray:
        """Return the same numbers (float64) without keeping the graph, computed by the same kernels."""
        return self(rollout, start, stop).detach().double().cpu().numpy()
