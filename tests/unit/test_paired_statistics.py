"""Intervals and tests against textbook numbers."""

from __future__ import annotations

import pytest
from grape_training.statistics import agresti_min, paired_difference, proportion


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
