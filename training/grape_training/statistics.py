"""Statistics of paired evaluations, honest for few episodes and for rates of 0 and 1.

Shares: Wilson intervals, exact McNemar test, Agresti-Min paired difference. Measured quantities: paired
bootstrap. Means over tasks (macro): MOVER on the tasks' own intervals. Several tasks: Holm's correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BOOTSTRAP_RESAMPLES = 5000
_BLOCK = 250


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


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MeanDifference:
    """Mean of candidate minus incumbent over ``total`` cells, with its paired bootstrap interval."""

    total: int
    candidate: float
    incumbent: float
    difference: float
    low: float
    high: float


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


def mean_difference(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    confidence: float = 0.95,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> MeanDifference:
    """Compare a measured quantity on the same cells, given in the same order.

    The interval is the percentile bootstrap over cells (Efron and Tibshirani 1993, chapter 13): whole pairs
    are resampled, with a fixed seed, so that the same data always give the same interval.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if len(candidate) != len(incumbent) or not len(candidate):
        raise ValueError("paired comparison needs two non-empty sequences of the same length")
    new, old = np.asarray(candidate, np.float64), np.asarray(incumbent, np.float64)
    low, high = bootstrap_interval(new - old, confidence, resamples)
    return MeanDifference(
        len(new), float(new.mean()), float(old.mean()), float((new - old).mean()), low, high
    )


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of ``values`` (N,), N > 0."""
    rng, count = np.random.default_rng(0), len(values)
    equal = np.full(count, 1.0 / count)
    # How often each value is drawn, in blocks: a table of all resamples would not fit for large suites.
    blocks = [rng.multinomial(count, equal, size=_BLOCK) @ values for _ in range(-(-resamples // _BLOCK))]
    means = np.concatenate(blocks) / count
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def macro_average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the unweighted mean over tasks with its interval, from the tasks' own intervals.

    MOVER (Zou and Donner 2008, "Construction of confidence intervals about effect measures"): the distances
    from estimate to limit add up in squares. It does not shrink to nothing at 0 or 100 % as a bootstrap does.

    Raises:
        ValueError: nothing to average.
    """
    if not estimates:
        raise ValueError("no tasks to average over")
    weight = 1.0 / len(estimates)
    value = weight * sum(each.value for each in estimates)
    below = weight * float(np.sqrt(sum((each.value - each.low) ** 2 for each in estimates)))
    above = weight * float(np.sqrt(sum((each.high - each.value) ** 2 for each in estimates)))
    return Estimate(value, value - below, value + above)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values (1979): with many tasks some differ by luck alone."""
    adjusted, highest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
