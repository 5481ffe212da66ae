"""Statistics over seeds and initial states against independent computations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from grape_training.headline_statistics import (
    difference,
    mean_of_states,
    paired_bootstrap,
    relative_change,
    sign_flip_test,
    wilson_of_states,
)
from grape_training.statistics import paired_difference, proportion
from scipy import stats


def flags(seeds: int, states: int, rate: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, states)) < rate


@pytest.mark.parametrize("seed", range(5))
def test_with_one_seed_the_pooled_test_is_mcnemars(seed):
    new, old = flags(1, 60, 0.6, seed), flags(1, 60, 0.4, 100 + seed)
    found, mcnemar = sign_flip_test(new, old), paired_difference(list(new[0]), list(old[0]))
    assert found.p_two_sided == pytest.approx(mcnemar.p_two_sided)
    assert found.p_greater == pytest.approx(mcnemar.p_greater)


@pytest.mark.parametrize(("seeds", "others"), [(3, 3), (3, 1), (2, 3)])
def test_the_pooled_test_counts_all_choices_of_signs(seeds, others):
    new, old = flags(seeds, 10, 0.7, 1), flags(others, 10, 0.4, 2)
    differences = new.mean(axis=0) - old.mean(axis=0)
    signs = np.array(list(product((-1, 1), repeat=10)))
    sums, total = signs @ differences, differences.sum()
    found = sign_flip_test(new, old)
    assert found.p_greater == pytest.approx((sums >= total - 1e-9).mean())
    assert found.p_two_sided == pytest.approx((np.abs(sums) >= abs(total) - 1e-9).mean())


def test_seeds_of_one_state_are_no_independent_evidence():
    """Three copies of one run say what that run says; counted as episodes they would say three times more."""
    new, old = flags(1, 80, 0.6, 3), flags(1, 80, 0.45, 4)
    copies = np.repeat(new, 3, axis=0), np.repeat(old, 3, axis=0)
    assert sign_flip_test(*copies) == sign_flip_test(new, old)
    naive = paired_difference(list(copies[0].ravel()), list(copies[1].ravel()))
    assert naive.p_two_sided < sign_flip_test(*copies).p_two_sided / 2
    assert wilson_of_states(copies[0]) == wilson_of_states(new)


def test_the_pooled_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(0)
    difficulty = rng.random(40)
    p_values = [
        sign_flip_test(rng.random((3, 40)) < difficulty, rng.random((3, 40)) < difficulty).p_two_sided
        for _ in range(400)
    ]
    assert stats.binomtest(sum(p <= 0.05 for p in p_values), 400, 0.05, "greater").pvalue > 0.01
    assert stats.binomtest(sum(p <= 0.5 for p in p_values), 400, 0.5, "greater").pvalue > 0.01


def test_equal_arms_differ_by_nothing():
    same = flags(3, 30, 0.5, 5)
    assert sign_flip_test(same, same).p_two_sided == 1.0
    assert sign_flip_test(same, same).p_greater == 1.0


def test_wilsons_interval_is_the_librarys_and_never_empty():
    values = flags(1, 40, 0.3, 6)
    found, library = wilson_of_states(values), proportion(list(values[0]))
    assert (found.value, found.low, found.high) == pytest.approx((library.rate, library.low, library.high))
    none = wilson_of_states(np.zeros((3, 200), bool))
    assert none.low == 0.0 < none.high < 0.03


@pytest.mark.parametrize("change", [difference, relative_change])
def test_the_bootstrap_over_states_is_the_librarys(change):
    new, old = flags(3, 120, 0.6, 7).astype(float), flags(1, 120, 0.4, 8).astype(float)
    found = paired_bootstrap(new, old, change)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return change(a.mean(axis=axis), b.mean(axis=axis))

    library = stats.bootstrap(
        (new.mean(axis=0), old.mean(axis=0)),
        statistic,
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=1,
    ).confidence_interval
    assert found is not None
    assert found.value == pytest.approx(change(new.mean(), old.mean()))
    assert (found.low, found.high) == pytest.approx((library.low, library.high), abs=0.03)
    assert found == paired_bootstrap(new, old, change)


def test_resampling_the_seeds_too_widens_the_interval_by_their_spread():
    new = np.stack([np.full(50, 0.3), np.full(50, 0.5), np.full(50, 0.7)])
    old = np.zeros((1, 50))
    narrow, wide = paired_bootstrap(new, old), paired_bootstrap(new, old, seeds_too=True)
    assert narrow is not None
    assert wide is not None
    assert (narrow.low, narrow.high) == pytest.approx((0.5, 0.5))
    assert (wide.low, wide.high) == pytest.approx((0.3, 0.7), abs=0.07)


def test_nothing_is_relative_to_zero():
    assert paired_bootstrap(np.ones((1, 4)), np.zeros((1, 4)), relative_change) is None


def test_the_interval_of_a_mean_is_the_librarys():
    values = np.random.default_rng(9).gamma(2.0, 10.0, (2, 150))
    found = mean_of_states(values)
    library = stats.bootstrap((values.mean(axis=0),), np.mean, method="percentile", n_resamples=5000, rng=1)
    assert (found.low, found.high) == pytest.approx(tuple(library.confidence_interval), rel=0.02)


def test_arms_with_other_states_are_refused():
    for compare in (sign_flip_test, paired_bootstrap):
        with pytest.raises(ValueError, match="same, non-empty list"):
            compare(flags(1, 5, 0.5, 0), flags(1, 6, 0.5, 0))
