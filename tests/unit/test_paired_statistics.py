"""Intervals and tests against textbook numbers."""

from __future__ import annotations

import numpy as np
import pytest
from grape_training.statistics import (
    Estimate,
    agresti_min,
    bootstrap_interval,
    holm,
    macro_average,
    mean_difference,
    paired_difference,
    proportion,
)


def test_wilson_interval_of_a_textbook_example():
    """8 of 10: 0.4902 to 0.9433 (Wilson 1927, z = 1.96)."""
    found = proportion([True] * 8 + [False] * 2)
    assert (found.count, found.total, found.rate) == (8, 10, 0.8)
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


def test_no_episodes_say_nothing():
    assert (proportion([]).low, proportion([]).high) == (0.0, 1.0)


def test_mcnemar_is_exact_and_counts_only_disagreement():
    """9 gained, 1 lost: two-sided 2 * (1 + 10) / 2**10; the 30 pairs that agree change nothing."""
    new = [True] * 9 + [False] + [True] * 15 + [False] * 15
    old = [False] * 9 + [True] + [True] * 15 + [False] * 15
    found = paired_difference(new, old)
    assert (found.gained, found.lost, found.total) == (9, 1, 40)
    assert found.difference == pytest.approx(8 / 40)
    assert found.p_two_sided == pytest.approx(22 / 1024)
    assert found.p_greater == pytest.approx(11 / 1024)
    assert found.low < found.difference < found.high


def test_equal_policies_have_p_one_and_an_interval_around_zero():
    found = paired_difference([True, False] * 20, [True, False] * 20)
    assert found.p_two_sided == found.p_greater == 1.0
    assert found.low < 0.0 < found.high


def test_agresti_min_by_hand():
    """5 gained, 2 lost, 20 pairs: centre 3/22, variance (8 - 9/22) / 22**2."""
    low, high = agresti_min(5, 2, 20, 0.95)
    spread = 1.959964 * (8 - 9 / 22) ** 0.5 / 22
    assert low == pytest.approx(3 / 22 - spread, abs=1e-6)
    assert high == pytest.approx(3 / 22 + spread, abs=1e-6)


@pytest.mark.parametrize(("new", "old"), [([], []), ([True], [True, False])])
def test_unpaired_data_is_refused(new, old):
    with pytest.raises(ValueError, match="same length"):
        paired_difference(new, old)


def test_paired_bootstrap_looks_at_differences_not_at_levels():
    """Candidate = incumbent - 2 in every cell: no doubt at all, however much the cells differ."""
    old = np.array([10.0, 50.0, 20.0, 35.0])
    found = mean_difference(old - 2.0, old)
    assert (found.total, found.candidate, found.incumbent) == (4, 26.75, 28.75)
    assert (found.difference, found.low, found.high) == (-2.0, -2.0, -2.0)
    with pytest.raises(ValueError, match="same length"):
        mean_difference([1.0], [])


def test_bootstrap_interval_is_that_of_normal_theory_for_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20.0
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == bootstrap_interval(values)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(rng.exponential(1.0, 100), resamples=400) for _ in range(600)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98  # skewed data: 93 to 94 % of 95


def test_macro_average_weighs_tasks_alike_and_stays_open_at_certainty():
    """By hand: (0.2 + 0.6) / 2; distances sqrt(0.1^2 + 0.2^2) / 2 and sqrt(0.3^2 + 0.4^2) / 2."""
    found = macro_average([Estimate(0.2, 0.1, 0.5), Estimate(0.6, 0.4, 1.0)])
    assert found.value == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4 - 0.05**0.5 / 2)
    assert found.high == pytest.approx(0.4 + 0.25)
    sure = proportion([True] * 50)
    alike = [Estimate(sure.rate, sure.low, sure.high)] * 4
    assert sure.low < macro_average(alike).low < macro_average(alike).high == 1.0
    with pytest.raises(ValueError, match="no tasks"):
        macro_average([])


def test_holm_by_hand():
    """0.01 * 3, then max(0.03, 0.02 * 2), then max(0.04, 0.9)."""
    assert holm({"a": 0.9, "b": 0.01, "c": 0.02}) == pytest.approx({"a": 0.9, "b": 0.03, "c": 0.04})
    assert holm({"a": 0.5, "b": 0.6}) == {"a": 1.0, "b": 1.0}
