"""Action statistics of a data set: normalise to [-1, 1] for tokens, un-normalise what was decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_policy.vla.config import ACTION_DIMENSIONS


class StatisticsError(ValueError):
    """Statistics that are missing, of the wrong shape or not finite; the message says which."""


@dataclass(frozen=True)
class ActionStatistics:
    """1st and 99th percentile per action dimension (7,), and which dimensions are normalised at all."""

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @classmethod
    def from_actions(
        cls, actions: NDArray[np.float64], mask: tuple[bool, ...] = (True,) * 6 + (False,)
    ) -> ActionStatistics:
        """Measure the percentiles of actions (T, 7); unmasked dimensions (the gripper) stay as they are."""
        return cls(np.quantile(actions, 0.01, axis=0), np.quantile(actions, 0.99, axis=0), np.array(mask))

    @classmethod
    def from_dict(cls, entry: Any, key: str) -> ActionStatistics:
        """Read one data set's entry, ``{"action": {"q01": […], "q99": […], "mask": […]}}``.

        Raises:
            StatisticsError: an array is missing, not of length 7, not finite, or q99 < q01.
        """
        action = entry.get("action") if isinstance(entry, Mapping) else None
        if not isinstance(action, Mapping) or "q01" not in action or "q99" not in action:
            raise StatisticsError(f"statistics {key!r} hold no action.q01 and action.q99")
        try:
            q01, q99 = (np.array(action[name], dtype=np.float64) for name in ("q01", "q99"))
        except (TypeError, ValueError) as error:
            raise StatisticsError(f"statistics {key!r}: {error}") from error
        mask = np.array(action.get("mask", [True] * ACTION_DIMENSIONS), dtype=np.bool_)
        if any(values.shape != (ACTION_DIMENSIONS,) for values in (q01, q99, mask)):
            raise StatisticsError(
                f"statistics {key!r}: q01, q99 and mask must have {ACTION_DIMENSIONS} entries"
            )
        if not (np.isfinite(q01).all() and np.isfinite(q99).all() and (q01 <= q99).all()):
            raise StatisticsError(f"statistics {key!r}: q01 and q99 must be finite with q01 <= q99")
        return cls(q01, q99, mask)

    def to_dict(self) -> dict[str, Any]:
        """Return one data set's entry of ``dataset_statistics.json``."""
        values = {"q01": self.q01.tolist(), "q99": self.q99.tolist(), "mask": self.mask.tolist()}
        return {"action": values}

    def normalise(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map actions (..., 7) in SI units to [-1, 1], clipped; a dimension that never moved maps to 0."""
        span = self.q99 - self.q01
        scaled = 2.0 * (actions - self.q01) / np.where(span > 0, span, 1.0) - 1.0
        scaled = np.where(span > 0, scaled, 0.0)
        return np.clip(np.where(self.mask, scaled, actions), -1.0, 1.0)

    def unnormalise(self, normalised: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map decoded values (..., 7) to SI units where the mask is true; the others stay as they are."""
        scaled = 0.5 * (normalised + 1.0) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, normalised)


def choose_statistics(statistics: Mapping[str, ActionStatistics], key: str | None = None) -> ActionStatistics:
    """Return the statistics under ``key``, or the only ones there are.

    Raises:
        StatisticsError: the key is unknown, or none was given and there are several.
    """
    if key is None and len(statistics) == 1:
        return next(iter(statistics.values()))
    if key is None or key not in statistics:
        raise StatisticsError(f"no action statistics for {key!r}; this checkpoint has {sorted(statistics)}")
    return statistics[key]
