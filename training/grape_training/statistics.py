"""Statistics of paired success: Wilson intervals, exact McNemar test, Agresti-Min paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Proportion:
    """A success count with its Wilson score interval."""

    count: int
    total: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus incumbent on the same cells.

    ``gained`` cells are true only for the candidate, ``lost`` only for the incumbent; ``p_two_sided`` and
    ``p_greater`` are exact McNemar p-values; ``low``..``high`` is the Agresti-Min interval of ``difference``.
    """

    total: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float
    p_two_sided: float
    p_greater: float


def proportion(flags: Sequence[bool], confidence: float = 0.95) -> Proportion:
    """Return the rate of true flags with its Wilson interval (Wilson 1927); no flags give 0..1."""
    total, count = len(flags), int(sum(flags))
    if total == 0:
        return Proportion(0, 0, 0.0, 0.0, 1.0)
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Proportion(count, total, count / total, float(interval.low), float(interval.high))


def paired_difference(
    candidate: Sequence[bool], incumbent: Sequence[bool], confidence: float = 0.95
) -> PairedDifference:
    """Compare two policies on the same cells, given in the same order.

    The p-values are McNemar's exact test on the discordant cells; the interval adds 0.5 to each cell of the
    2 x 2 table (Agresti and Min 2005), so that it stays honest when few cells disagree.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if len(candidate) != len(incumbent) or not candidate:
        raise ValueError("paired comparison needs two non-empty sequences of the same length")
    new, old = np.asarray(candidate, bool), np.asarray(incumbent, bool)
    gained, lost = int((new & ~old).sum()), int((~new & old).sum())
    low, high = agresti_min(gained, lost, len(new), confidence)
    discordant = gained + lost
    return PairedDifference(
        total=len(new),
        gained=gained,
        lost=lost,
        difference=(gained - lost) / len(new),
        low=low,
        high=high,
        p_two_sided=_exact(gained, discordant, "two-sided"),
        p_greater=_exact(gained, discordant, "greater"),
    )


def _exact(gained: int, discordant: int, alternative: str) -> float:
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(gained, discordant, alternative=alternative).pvalue)


def agresti_min(gained: int, lost: int, total: int, confidence: float) -> tuple[float, float]:
    """Return the two-sided interval of ``(gained - lost) / total`` at ``confidence``."""
    size, up, down = total + 2, gained + 0.5, lost + 0.5
    centre = (up - down) / size
    spread = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(up + down - (up - down) ** 2 / size) / size
    return max(-1.0, float(centre - spread)), min(1.0, float(centre + spread))
