"""Statistics of arms that were trained with several seeds and run from the same initial states.

The episodes of several seeds from one initial state are no independent episodes. So the initial state is the
unit throughout: a state's value is the mean over the arm's seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grape_training.statistics import BOOTSTRAP_RESAMPLES, Estimate

Values = NDArray[np.float64]  # (seeds, states)


@dataclass(frozen=True)
class PooledTest:
    """P-values of the exact sign-flip test over initial states."""

    p_two_sided: float
    p_greater: float


def sign_flip_test(candidate: NDArray[np.bool_], incumbent: NDArray[np.bool_]) -> PooledTest:
    """Compare successes (seeds, states) of two arms; each state is one unit, whatever its seeds did.

    Under the null hypothesis a state's difference d (mean over the candidate's seeds less mean over the
    incumbent's) is as likely as -d. The distribution of their sum over all choices of signs is computed
    exactly. With one seed each this is McNemar's exact test. The signs are exchangeable where both arms have
    as many seeds; against an arm with fewer (the policy before training has one) the test holds for many
    states only, by the central limit theorem.

    Raises:
        ValueError: the arms were run from different numbers of states, or from none.
    """
    if candidate.shape[1] != incumbent.shape[1] or not candidate.size or not incumbent.size:
        raise ValueError("a paired test needs the same, non-empty list of initial states for both arms")
    seeds, others = len(candidate), len(incumbent)
    scale = int(np.lcm(seeds, others))
    differences = candidate.sum(0) * (scale // seeds) - incumbent.sum(0) * (scale // others)
    total, sums = int(differences.sum()), _signed_sums(np.abs(differences))
    centre = len(sums) // 2
    distance = min(abs(total), centre)
    both = sums[: centre - distance + 1].sum() + sums[centre + distance :].sum() if distance else 1.0
    return PooledTest(min(1.0, float(both)), min(1.0, float(sums[centre + total :].sum())))


def _signed_sums(sizes: NDArray[np.int64]) -> Values:
    """Return the probabilities of -sum(sizes) .. sum(sizes) when every size gets a random sign."""
    probabilities = np.ones(1)
    for size in sizes[sizes > 0]:
        wider = np.zeros(len(probabilities) + 2 * int(size))
        wider[: len(probabilities)] += 0.5 * probabilities
        wider[2 * int(size) :] += 0.5 * probabilities
        probabilities = wider
    return probabilities


def wilson_of_states(flags: NDArray[np.bool_], confidence: float = 0.95) -> Estimate:
    """Return the mean rate of flags (seeds, states) with Wilson's interval for as many trials as states.

    Further seeds make the rate better known but count for nothing here, so the interval is on the wide side.
    """
    count, rate = flags.shape[1], float(flags.mean())
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return Estimate(rate, max(0.0, centre - half), min(1.0, centre + half))


def difference(candidate: Values, incumbent: Values) -> Values:
    """Return the difference of two means."""
    return candidate - incumbent


def relative_change(candidate: Values, incumbent: Values) -> Values:
    """Return (candidate - incumbent) / incumbent; not a number where the incumbent is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change: Values = np.where(incumbent != 0, candidate / incumbent - 1.0, np.nan)
    return change


def paired_bootstrap(
    candidate: Values,
    incumbent: Values,
    change: Callable[[Values, Values], Values] = difference,
    *,
    seeds_too: bool = False,
    confidence: float = 0.95,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Estimate | None:
    """Return ``change`` of two arms' means over values (seeds, states), with a percentile bootstrap interval.

    Whole states are resampled, the same for both arms; ``seeds_too``: also each arm's seeds, which says what
    another training run might give. The random numbers are fixed: the same data give the same interval.
    None: the change is no number, e.g. relative to 0; resamples without a number are left out.

    Raises:
        ValueError: the arms were run from different numbers of states, or from none.
    """
    if candidate.shape[1] != incumbent.shape[1] or not candidate.size or not incumbent.size:
        raise ValueError("a paired comparison needs the same, non-empty list of initial states for both arms")
    value = float(change(candidate.mean(keepdims=True), incumbent.mean(keepdims=True)).item())
    if not np.isfinite(value):
        return None
    shares = _shares(candidate.shape[1], resamples, 0)
    means = [
        ((shares @ arm.T) * (_shares(len(arm), resamples, stream) if seeds_too else 1.0 / len(arm))).sum(
            axis=1
        )
        for stream, arm in enumerate((candidate, incumbent), 1)
    ]
    found = change(means[0], means[1])
    low, high = np.nanquantile(found, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high))


def mean_of_states(
    values: Values, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES
) -> Estimate:
    """Return the mean of values (seeds, states) with its percentile bootstrap interval over states."""
    found = _shares(values.shape[1], resamples, 0) @ values.mean(axis=0)
    low, high = np.quantile(found, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(values.mean()), float(low), float(high))


@lru_cache(maxsize=8)
def _shares(count: int, resamples: int, stream: int) -> Values:
    """Return which share (resamples, count) of a resample each of ``count`` values makes up."""
    rng = np.random.default_rng([0, stream])
    return rng.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
