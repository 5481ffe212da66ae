"""The parameter table: types, bounds, documentation."""

from __future__ import annotations

import math

import pytest
from grape_policy.nodes.parameters import Parameter, ParameterError, markdown_table

RATE = Parameter("rate_hz", 5.0, "Actions per second.", 0.1, 50.0, "Hz")
COUNT = Parameter("count", 3, "How many.", minimum=1)


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), (0.1, 0.1), (50.0, 50.0)])
def test_numbers_inside_the_bounds_come_back_as_floats(value: float, expected: float) -> None:
    checked = RATE.check(value)
    assert checked == expected
    assert isinstance(checked, float)


@pytest.mark.parametrize("value", [0.0999, 50.1, math.nan, math.inf, "5", True, None, [5.0]])
def test_other_values_are_refused_with_the_name(value: object) -> None:
    with pytest.raises(ParameterError, match="rate_hz"):
        RATE.check(value)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_whole_numbers_stay_whole(value: object) -> None:
    with pytest.raises(ParameterError, match="count"):
        COUNT.check(value)


def test_the_refusal_names_value_bounds_and_unit() -> None:
    with pytest.raises(ParameterError, match=r"rate_hz = 70\.0 .* 0\.1 \.\. 50 Hz"):
        RATE.check(70.0)


def test_the_table_documents_every_parameter() -> None:
    text = markdown_table((RATE, COUNT))
    assert "| `rate_hz` | `5.0` | 0.1 .. 50 Hz | Hz | Actions per second. |" in text
    assert "| `count` | `3` | 1 .. | - | How many. |" in text
