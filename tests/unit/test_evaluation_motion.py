"""Path length and jerk against paths whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from grape_training.motion import path_length, rms_jerk


def test_length_of_a_square():
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], float)
    assert path_length(corners) == 4.0
    assert path_length(corners[:1]) == 0.0


def test_jerk_of_a_cubic_is_exact_at_any_rate():
    """x = t^3 has jerk 6, y = 2 t^3 has 12: together sqrt(36 + 144)."""
    for period in (0.2, 0.05):
        t = period * np.arange(12)[:, None]
        assert rms_jerk(np.hstack([t**3, 2 * t**3, t]), period) == pytest.approx(180**0.5)


def test_even_acceleration_has_no_jerk_and_three_points_tell_nothing():
    t = 0.2 * np.arange(10)[:, None]
    assert rms_jerk(np.hstack([t**2, t, 0 * t]), 0.2) == pytest.approx(0.0, abs=1e-10)
    assert rms_jerk(np.ones((3, 3)), 0.2) == 0.0
