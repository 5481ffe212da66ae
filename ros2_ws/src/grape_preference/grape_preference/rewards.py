"""Customised preference rewards (GCPG, GRAPE eq. 9): lambda1 R_self + lambda2 R_ext + lambda3 I_success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape_preference.scoring import Score


@dataclass(frozen=True)
class Preset:
    """Weights of the three terms; ``standardised``: each term is first standardised inside the group.

    Raw presets take the plain sum of log-probabilities (as published, so largely a length penalty); the
    standardised one takes the mean per token.
    """

    self_weight: float
    external_weight: float
    success_weight: float
    standardised: bool
    doc: str


PRESETS: dict[str, Preset] = {
    "balanced": Preset(1.0, 1.0, 1.0, True, "each term standardised inside its (task, initial state) group"),
    "paper": Preset(
        0.01, 0.01, 2.0, False, "the published weights on raw terms; R_ext moves it by at most 0.01"
    ),
    "paper-code": Preset(0.01, 1.0, 5.0, False, "the weights of the authors' code on raw terms"),
}
DEFAULT_PRESET = "balanced"
RAW = "raw:"


def find_preset(text: str) -> Preset:
    """Return a preset by name, or custom weights of R_self, R_ext and I_success, e.g. ``1,0.5,2``.

    Custom weights are on standardised terms; with ``raw:`` in front, on raw ones.

    Raises:
        ValueError: neither a preset nor three finite numbers.
    """
    if text in PRESETS:
        return PRESETS[text]
    try:
        own, external, success = map(float, text.removeprefix(RAW).split(","))
    except ValueError:
        own = external = success = math.nan
    if not np.isfinite([own, external, success]).all():
        known = ", ".join(PRESETS)
        raise ValueError(f"unknown preset {text!r}; choose one of {known}, or weights such as 1,0.5,2")
    return Preset(own, external, success, not text.startswith(RAW), "custom weights")


def gcpg(scores: Sequence[Score], preset: str = DEFAULT_PRESET) -> list[float | None]:
    """Return the reward of every score of ONE (task, initial state) group; None unless its verdict is "ok".

    Raises:
        ValueError: unknown preset, or scores of different groups.
    """
    groups = {(score.task, score.initial_state_id) for score in scores}
    if len(groups) > 1:
        raise ValueError(f"scores of {len(groups)} groups cannot be compared: {sorted(groups)[:3]}")
    values = iter(rewards([score for score in scores if score.verdict == "ok"], preset))
    return [next(values) if score.verdict == "ok" else None for score in scores]


def rewards(scores: Sequence[Score], preset: str) -> list[float]:
    """Return the rewards of scores that all have the verdict "ok", compared with each other."""
    weights = find_preset(preset)
    total = terms(scores, weights) @ np.array(
        [weights.self_weight, weights.external_weight, weights.success_weight]
    )
    return [float(value) for value in total]


def terms(scores: Sequence[Score], preset: Preset) -> np.ndarray:
    """Return (n, 3): R_self, R_ext, I_success, standardised over the rows if the preset says so."""
    rows = [(s.r_self_mean if preset.standardised else s.r_self, s.r_ext, s.i_success) for s in scores]
    values = np.array(rows, dtype=np.float64).reshape(-1, 3)
    if not preset.standardised or len(values) == 0:
        return values
    spread = values.std(axis=0)
    # A term that is the same for all says nothing about their order; rounding must not be blown up into one.
    scale = np.where(spread > 1e-9, spread, np.inf)
    standardised: np.ndarray = (values - values.mean(axis=0)) / scale
    return standardised
