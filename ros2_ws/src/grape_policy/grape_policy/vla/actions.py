"""Actions to tokens and back, as OpenVLA does it: 256 uniform bins on the last ids of the vocabulary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grape_policy.vla.config import VlaConfig


class ActionTokenizer:
    """Normalised actions in [-1, 1] to token ids of one vocabulary, and back to bin centres."""

    def __init__(self, config: VlaConfig) -> None:
        self.vocabulary = config.vocabulary
        self.bins = np.linspace(-1.0, 1.0, config.n_action_bins)
        self.centres = (self.bins[:-1] + self.bins[1:]) / 2.0

    def encode(self, normalised: NDArray[np.float64]) -> NDArray[np.int64]:
        """Map actions (..., 7) in [-1, 1] (clipped to it) to token ids: vocabulary - digitize(action).

        Raises:
            ValueError: a value is not finite.
        """
        if not np.isfinite(normalised).all():
            raise ValueError("actions hold NaN or infinity; they cannot become tokens")
        return self.vocabulary - np.digitize(np.clip(normalised, -1.0, 1.0), self.bins).astype(np.int64)

    def decode(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Map token ids (..., 7) to bin centres in (-1, 1); other ids fall on the nearest bin."""
        index = np.clip(self.vocabulary - np.asarray(token_ids) - 1, 0, len(self.centres) - 1)
        return self.centres[index]
