"""Where a partly hidden object is, and how large: from boxes that are known here."""

from __future__ import annotations

import numpy as np
import pytest
from grape_preference.object_boxes import ObjectSize, nearest_centre, whole_size
from grape_preference.segmentation import Candidate
from hypothesis import given
from hypothesis import strategies as st

EXTENT = np.array([0.04, 0.04, 0.03])
PLACE = np.array([0.3, 0.05, 0.045])
SIZE = ObjectSize(EXTENT, 1.0)
SHARES = st.floats(0.3, 1.0)


def seen(low: list[float], high: list[float], area: float = 1.0) -> Candidate:
    return Candidate("cube", np.array(low), np.array(high), np.zeros((1, 2), int), area)


def visible(place: np.ndarray, share: tuple[float, float]) -> Candidate:
    """The near part in x and the left part in y of a box at ``place``; its top is always seen."""
    low, high = place - EXTENT / 2, place + EXTENT / 2
    cut = high - low
    return seen([high[0] - share[0] * cut[0], low[1], low[2]], [high[0], low[1] + share[1] * cut[1], high[2]])


@given(SHARES, SHARES)
def test_what_is_hidden_does_not_move_an_object(near: float, left: float) -> None:
    """The middle of the visible part would be up to 14 mm off."""
    found = nearest_centre(PLACE, visible(PLACE, (near, left)), SIZE)
    assert found == pytest.approx(PLACE, abs=1e-9)


@given(SHARES, SHARES, st.floats(-0.02, 0.02), st.floats(-0.03, 0.03))
def test_a_moved_object_is_placed_no_farther_off_than_before(
    near: float, left: float, forward: float, up: float
) -> None:
    moved = PLACE + np.array([forward, 0.0, up])
    found = nearest_centre(PLACE, visible(moved, (near, left)), SIZE)
    assert abs(found[0] - moved[0]) <= abs(forward) + 1e-9
    assert found[1] == pytest.approx(moved[1])
    assert found[2] == pytest.approx(moved[2])  # the top is seen from above


def test_more_than_the_box_can_hold_says_that_an_object_has_turned() -> None:
    assert SIZE.turned(seen([0.27, 0.0, 0.03], [0.33, 0.06, 0.06]))
    assert not SIZE.turned(visible(PLACE, (1.0, 1.0)))


def test_the_size_is_taken_before_the_hand_moves_the_object() -> None:
    """Leaning on a rim, more of an object is visible than where it lay."""
    lying = seen([0, 0, 0.005], [0.07, 0.03, 0.03], 15.0)
    leaning = seen([0, 0, 0.01], [0.07, 0.03, 0.055], 19.0)
    size = whole_size([lying, lying, leaning, leaning, leaning], closing=2)
    assert size is not None
    assert size.extent.tolist() == [0.07, 0.03, 0.03]
    hidden = seen([0, 0, 0.005], [0.02, 0.03, 0.03], 4.0)
    later = whole_size([hidden, hidden, leaning, leaning, leaning], closing=2)
    assert later is not None
    assert later.extent.tolist() == [0.07, 0.03, 0.055]
