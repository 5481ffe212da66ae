"""From the camera's time to ROS time, and which frames are new."""

from __future__ import annotations

import numpy as np
import pytest
from grape_policy.camera.clock import JUMP_NS, PATIENCE, WINDOW_NS, StampMapper
from grape_policy.camera.counters import FrameCounts, FrameGuard
from grape_policy.camera.types import Clock, RawFrame
from hypothesis import given, settings
from hypothesis import strategies as st

EPOCH = 1_790_000_000_000_000_000
PERIOD_NS = 33_333_333


def stamps(delays_ms: list[float], *, device_start_ms: float = 5e5, drift: float = 0.0) -> list[int]:
    """Return the errors (ns) of the stamps of frames that take ``delays_ms`` to arrive."""
    mapper, errors = StampMapper(), []
    for index, delay in enumerate(delays_ms):
        captured = EPOCH + index * PERIOD_NS
        device_ms = device_start_ms + index * PERIOD_NS * (1 + drift) / 1e6
        errors.append(mapper.stamp(device_ms, Clock.DEVICE, captured + round(delay * 1e6)) - captured)
    return errors


def test_device_stamps_lose_the_jitter_of_arrival() -> None:
    delays = 8.0 + np.random.default_rng(0).exponential(6.0, 600)
    errors = np.array(stamps(delays.tolist()))[60:] / 1e6
    assert errors.std() < 0.1 < delays.std()
    assert abs(errors.mean() - delays.min()) < 0.3


def test_the_drift_of_the_devices_clock_is_followed() -> None:
    errors = np.array(stamps([10.0] * 3000, drift=100e-6)) / 1e6  # 100 s in which the clocks part by 10 ms
    assert np.abs(errors - 10.0).max() < 100e-6 * WINDOW_NS / 1e6 + 0.1


@pytest.mark.parametrize("wrap_ms", [2**32 / 1000.0, 30.0 * PERIOD_NS / 1e6])
def test_a_counter_that_begins_again_does_not_move_the_stamps(wrap_ms: float) -> None:
    mapper, start = StampMapper(), max(0.0, wrap_ms - 30 * PERIOD_NS / 1e6)
    found = []
    for index in range(60):
        device_ms = (start + index * PERIOD_NS / 1e6) % wrap_ms
        found.append(mapper.stamp(device_ms, Clock.DEVICE, EPOCH + index * PERIOD_NS))
    assert np.abs(np.diff(found) - PERIOD_NS).max() < 10_000
    assert mapper.jumps == 1


def test_one_very_late_frame_is_stamped_by_its_capture_and_moves_no_clock() -> None:
    delays = [10.0] * 40 + [900.0] + [10.0] * 40
    errors = np.array(stamps(delays)) / 1e6
    np.testing.assert_allclose(errors, 10.0, atol=0.01)


def test_a_host_clock_set_forward_is_followed_after_some_frames() -> None:
    mapper, step = StampMapper(), 2 * JUMP_NS
    for index in range(30):
        mapper.stamp(index * 33.0, Clock.DEVICE, EPOCH + index * 33_000_000)
    late = [
        mapper.stamp(index * 33.0, Clock.DEVICE, EPOCH + step + index * 33_000_000) for index in range(30, 60)
    ]
    expected = [EPOCH + step + index * 33_000_000 for index in range(30, 60)]
    assert late[PATIENCE:] == expected[PATIENCE:]
    assert mapper.jumps == 1


def test_host_times_are_taken_as_they_are_when_they_can_be_true() -> None:
    mapper = StampMapper()
    captured_ms = EPOCH / 1e6
    assert abs(mapper.stamp(captured_ms, Clock.HOST, EPOCH + 15_000_000) - EPOCH) < 1000
    ahead = mapper.stamp(captured_ms + 60_000.0, Clock.HOST, EPOCH + 50_000_000)  # another epoch: not true
    assert ahead == EPOCH + 50_000_000


def test_what_has_no_clock_is_stamped_on_arrival() -> None:
    assert StampMapper().stamp(3.0, Clock.ARRIVAL, EPOCH) == EPOCH


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 1e10), st.integers(0, 10**10)), min_size=1, max_size=40),
    st.sampled_from(Clock),
)
def test_no_stamp_is_ever_later_than_the_arrival(frames: list[tuple[float, int]], clock: Clock) -> None:
    mapper = StampMapper()
    for time_ms, arrival in frames:
        assert mapper.stamp(time_ms, clock, EPOCH + arrival) <= EPOCH + arrival


def frame(number: int, time_ms: float, *, depth: bool = True) -> RawFrame:
    pixels = np.zeros((2, 2, 3), np.uint8)
    return RawFrame(
        pixels, pixels[..., 0].astype(np.uint16) if depth else None, number, time_ms, Clock.DEVICE
    )


def admitted(frames: list[tuple[int, float]]) -> tuple[list[bool], FrameCounts]:
    counts = FrameCounts()
    guard = FrameGuard(30.0, counts)
    results = [
        guard.admit(frame(number, time_ms), (index + 1) * PERIOD_NS, index / 30.0)
        for index, (number, time_ms) in enumerate(frames)
    ]
    return results, counts


def test_gaps_of_the_counter_are_dropped_frames() -> None:
    results, counts = admitted([(1, 0.0), (2, 33.0), (5, 133.0), (6, 166.0)])
    assert all(results)
    assert (counts.published, counts.dropped, counts.repeated) == (4, 2, 0)


@pytest.mark.parametrize(
    "repeated",
    [(2, 66.0), (3, 33.0), (1, 0.0), (2, 33.0)],
    ids=["same number", "same time", "older", "same frame"],
)
def test_what_is_not_newer_is_refused(repeated: tuple[int, float]) -> None:
    results, counts = admitted([(1, 0.0), (2, 33.0), repeated, (4, 100.0)])
    assert results == [True, True, False, True]
    assert counts.repeated == 1


def test_a_counter_or_a_clock_that_begins_again_is_no_repetition() -> None:
    results, counts = admitted([(900, 3e4), (1, 3.003e4), (2, 3.3), (3, 36.6)])
    assert all(results)
    assert counts.dropped == 0


def test_a_stamp_that_goes_back_is_refused_until_the_camera_is_opened_again() -> None:
    counts = FrameCounts()
    guard = FrameGuard(30.0, counts)
    assert guard.admit(frame(1, 0.0), EPOCH, 0.0)
    assert not guard.admit(frame(2, 33.0), EPOCH - 1, 0.03)
    guard.restart()
    assert guard.admit(frame(2, 33.0), EPOCH - 1, 0.03)


def test_late_frames_and_missing_depths_are_counted() -> None:
    counts = FrameCounts()
    guard = FrameGuard(30.0, counts)
    for index, now in enumerate([0.0, 0.033, 0.084, 0.117, 0.15]):
        guard.admit(frame(index, index * 33.0, depth=index != 3), EPOCH + index, now)
    assert (counts.late, counts.without_depth) == (1, 1)
    assert guard.rate_hz == pytest.approx(4 / 0.15)
