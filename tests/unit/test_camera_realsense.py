"""Colour, aligned depth, recordings and reconnecting, through the SDK's software device."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs
import pytest
import software_camera as soft
from grape_policy.camera.capture import FIRST_DELAY, Capture, StampedFrame
from grape_policy.camera.counters import FrameCounts, FrameGuard
from grape_policy.camera.realsense import Profile, RealSenseSource, RecordingSource
from grape_policy.camera.types import (
    CameraError,
    CameraSettingsError,
    Clock,
    EndOfPlayback,
    Intrinsics,
    RawFrame,
)

SMALL = (160, 120)


@pytest.fixture
def open_source() -> Iterator[Callable[..., RealSenseSource]]:
    """Open a source on a software camera; it is closed after the test, which the SDK needs."""
    opened: list[RealSenseSource] = []

    def make(camera: soft.SoftwareCamera, *settings: Any) -> RealSenseSource:
        opened.append(RealSenseSource(camera.device, *settings))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def next_pair(source: Any, camera: soft.SoftwareCamera, number: int, **fields: Any) -> RawFrame:
    """Send frames until one comes out with depth: the first of each stream come alone."""
    for attempt in range(number, number + 10):
        camera.send(attempt, **fields)
        frame = source.read(1.0)
        if frame is not None and frame.depth is not None:
            return frame
    raise AssertionError("no pair of images came")


def test_colour_depth_and_intrinsics_are_exact(open_source: Any) -> None:
    camera = soft.SoftwareCamera()
    source = open_source(camera, Profile.parse("640x480x30"), Profile.parse("640x480x30"))
    frame = next_pair(source, camera, 5)
    np.testing.assert_array_equal(frame.colour, soft.colour_image(frame.number))
    assert frame.depth is not None
    seen = frame.depth[frame.depth > 0]
    assert set(np.unique(seen)) == {800 + frame.number}
    assert frame.clock is Clock.DEVICE
    assert frame.time_ms == pytest.approx(100_000.0 + frame.number * 1000 / 30)
    expected = [[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]]
    np.testing.assert_allclose(source.intrinsics.matrix, expected)
    assert (source.intrinsics.width, source.intrinsics.height) == (640, 480)


def test_depth_is_where_the_colour_camera_sees_it(open_source: Any) -> None:
    camera = soft.SoftwareCamera()
    source = open_source(camera)
    scene = np.full((soft.HEIGHT, soft.WIDTH), 1500, np.uint16)
    top, left, bottom, right = 200, 280, 260, 360  # a box 700 mm away, in the depth image
    scene[top:bottom, left:right] = 700
    frame = next_pair(source, camera, 1, depth=scene)
    assert frame.depth is not None
    rows, columns = np.nonzero(frame.depth == 700)

    def projected(pixel: float, centre: float, shift: float) -> float:
        return ((pixel - centre) / soft.DEPTH_FOCAL + shift / 0.7) * soft.COLOUR_FOCAL + centre

    assert abs(columns.min() - projected(left - 0.5, 319.5, soft.BASELINE)) <= 1.0
    assert abs(columns.max() - projected(right - 0.5, 319.5, soft.BASELINE)) <= 1.0
    assert abs(rows.min() - projected(top - 0.5, 239.5, 0.0)) <= 1.0
    assert abs(rows.max() - projected(bottom - 0.5, 239.5, 0.0)) <= 1.0
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # no holes


def test_depth_in_other_units_becomes_millimetres(open_source: Any) -> None:
    camera = soft.SoftwareCamera(size=SMALL)
    scene = np.full(SMALL[::-1], 7004, np.uint16)
    frame = next_pair(open_source(camera), camera, 1, depth=scene, depth_unit=0.0001)
    assert frame.depth is not None
    assert set(np.unique(frame.depth)) - {0} == {700}


def test_blue_and_red_are_not_mixed_up(open_source: Any) -> None:
    camera = soft.SoftwareCamera(size=SMALL, colour_format=rs.format.bgr8)
    frame = next_pair(open_source(camera), camera, 3)
    np.testing.assert_array_equal(frame.colour, soft.colour_image(frame.number, *SMALL)[..., ::-1])


@pytest.mark.parametrize(
    ("domain", "clock"),
    [("hardware_clock", Clock.DEVICE), ("system_time", Clock.HOST), ("global_time", Clock.HOST)],
)
def test_the_sdks_clocks_are_told_apart(open_source: Any, domain: str, clock: Clock) -> None:
    camera = soft.SoftwareCamera(size=SMALL)
    frame = next_pair(open_source(camera), camera, 1, domain=getattr(rs.timestamp_domain, domain))
    assert frame.clock is clock


def test_a_missing_depth_image_is_not_filled_with_the_last_one(open_source: Any) -> None:
    camera = soft.SoftwareCamera(size=SMALL)
    source = open_source(camera)
    last = next_pair(source, camera, 1).number
    guard, found = FrameGuard(30.0, FrameCounts()), []
    for number in range(last + 1, last + 16):
        camera.send(number, with_depth=number > last + 12)
        while (frame := source.read(0.03)) is not None:
            if guard.admit(frame, number + len(found), time.monotonic()):
                found.append(RawFrame(frame.colour, frame.depth, frame.number, frame.time_ms, frame.clock))
    numbers = [frame.number for frame in found]
    assert numbers == sorted(set(numbers))
    for frame in found:
        if frame.depth is not None:
            assert set(np.unique(frame.depth)) - {0} == {800 + frame.number}
    assert sum(frame.depth is None for frame in found) >= 3
    assert found[-1].depth is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((Profile(1280, 720, 30),), "no color stream 1280x720x30; it offers: 160x120x30"),
        ((None, Profile(160, 120, 90)), "no depth stream 160x120x90; it offers: 160x120x30"),
        ((None, None, "sharpest"), "'sharpest' is not one of custom, default"),
        ((None, None, "high_accuracy"), "no visual presets"),
    ],
)
def test_settings_the_camera_lacks_are_refused(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CameraSettingsError, match=re.escape(message)):
        RealSenseSource(soft.SoftwareCamera(size=SMALL).device, *settings)


@pytest.mark.parametrize("text", ["640x480", "640x480x0", "axbxc", "", "640x480x30x1"])
def test_a_profile_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CameraSettingsError, match="640x480x30"):
        Profile.parse(text)


def test_a_preset_is_set(open_source: Any) -> None:
    camera = soft.SoftwareCamera(size=SMALL, preset=True)
    open_source(camera, None, None, "high_accuracy")
    sensor = camera.device.query_sensors()[0]
    assert sensor.get_option(rs.option.visual_preset) == int(rs.rs400_visual_preset.high_accuracy)


# Recordings


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "twenty.db3"
    soft.record(path, 20, SMALL)
    return path


def played(source: RecordingSource) -> list[RawFrame]:
    frames, end = [], time.monotonic() + 20.0
    try:
        while time.monotonic() < end:
            frame = source.read(0.1)
            if frame is not None:
                depth = None if frame.depth is None else frame.depth.copy()
                frames.append(RawFrame(frame.colour.copy(), depth, frame.number, 0.0, frame.clock))
    except EndOfPlayback:
        return frames
    finally:
        source.close()
    raise AssertionError("the recording did not end")


@pytest.mark.parametrize("real_time", [True, False])
def test_a_recording_gives_back_what_was_recorded(recording: Path, real_time: bool) -> None:
    start = time.monotonic()
    frames = played(RecordingSource(recording, real_time))
    seconds = time.monotonic() - start
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 20
    assert len(frames) >= (15 if real_time else 18)
    for frame in frames:
        np.testing.assert_array_equal(frame.colour, soft.colour_image(frame.number, *SMALL))
        assert frame.depth is None or set(np.unique(frame.depth)) - {0} == {800 + frame.number}
        assert frame.clock is Clock.ARRIVAL
    if real_time:
        assert seconds > 18 / soft.RATE


@pytest.mark.parametrize("content", [None, b"no recording"])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "some.db3"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CameraSettingsError, match=r"some\.db3"):
        RecordingSource(path)


# Disconnecting, repeating, reconnecting


class Sink:
    """Keeps what a capture delivers."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, np.ndarray]] = []
        self.intrinsics: list[Intrinsics] = []

    def __call__(self, frame: StampedFrame, intrinsics: Intrinsics) -> None:
        self.frames.append((frame.stamp_ns, frame.colour.copy()))
        self.intrinsics.append(intrinsics)

    @property
    def numbers(self) -> list[int]:
        return [int(colour[0, 0, 0]) for _, colour in self.frames]  # that is how the images are made


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_after_a_lost_camera_it_is_opened_again_with_growing_delays() -> None:
    sink, attempts = Sink(), []
    cameras = [soft.SoftwareCamera(size=SMALL), None, None, soft.SoftwareCamera(size=SMALL)]
    left = list(cameras)

    def connect() -> RealSenseSource:
        attempts.append(time.monotonic())
        camera = left.pop(0)
        if camera is None:
            raise CameraError("no camera 1; no RealSense camera is connected")
        return RealSenseSource(camera.device)

    capture = Capture(connect, sink, time.time_ns, rate_hz=30.0, timeout=0.3)
    try:
        first = soft.Feeder(cameras[0])  # type: ignore[arg-type]
        until(lambda: len(sink.frames) >= 10)
        first.stop()
        until(lambda: not capture.streaming)
        assert "no new frame for 0.3 s" in capture.state
        before = len(sink.frames)
        until(lambda: len(attempts) == 4)
        assert len(sink.frames) == before  # nothing is made up while it is away
        second = soft.Feeder(cameras[3], first=1)  # type: ignore[arg-type]
        until(lambda: len(sink.frames) >= before + 10)
        second.stop()
    finally:
        capture.close()
    waits = np.diff(attempts)[1:]
    assert waits[0] == pytest.approx(2 * FIRST_DELAY, abs=0.4)
    assert waits[1] == pytest.approx(4 * FIRST_DELAY, abs=0.4)
    stamps = [stamp for stamp, _ in sink.frames]
    assert stamps == sorted(set(stamps))
    assert capture.counts.reconnects == 3
    stretches = sink.numbers[:before], sink.numbers[before:]  # a new beginning is no loss
    assert capture.counts.dropped == sum(n[-1] - n[0] + 1 - len(n) for n in stretches)


def test_a_camera_that_repeats_itself_is_silent_and_then_opened_again() -> None:
    sink, camera = Sink(), soft.SoftwareCamera(size=SMALL)
    opened: list[RealSenseSource] = []

    def connect() -> RealSenseSource:
        opened.append(RealSenseSource(camera.device))
        return opened[-1]

    capture = Capture(connect, sink, time.time_ns, rate_hz=30.0, timeout=0.4)
    try:
        for number in range(1, 11):
            camera.send(number)
            time.sleep(0.02)
        until(lambda: len(sink.frames) >= 8)
        time.sleep(0.1)
        before = sink.numbers
        while len(opened) < 2:  # the same frame again and again, as a hung camera may send it
            camera.send(10)
            time.sleep(0.02)
        assert sink.numbers[: len(before)] == before
        assert set(sink.numbers[len(before) :]) <= {10}  # only once more: as the first of the new stretch
        assert len(sink.numbers) - len(before) <= 1
        assert capture.counts.repeated > 0
    finally:
        capture.close()


def test_lost_frames_are_counted_and_stamps_keep_the_cameras_intervals() -> None:
    sink, camera = Sink(), soft.SoftwareCamera(size=SMALL)
    capture = Capture(lambda: RealSenseSource(camera.device), sink, time.time_ns, rate_hz=30.0)
    try:
        until(lambda: camera.device.query_sensors()[1].get_active_streams() != [])
        numbers = [n for n in range(1, 61) if n not in (30, 31, 45)]
        rng = np.random.default_rng(0)
        start = time.monotonic()
        for number in numbers:
            time.sleep(max(0.0, start + number / 30 + rng.uniform(0, 0.008) - time.monotonic()))
            camera.send(number)
        until(lambda: bool(sink.numbers) and sink.numbers[-1] == 60)
    finally:
        capture.close()
    missing = set(range(sink.numbers[0], 61)) - set(sink.numbers)
    assert {30, 31, 45} <= missing
    assert capture.counts.dropped == len(missing)
    steps = np.diff(sink.numbers)
    intervals = np.diff([stamp for stamp, _ in sink.frames]) / 1e6
    assert (intervals > 0).all()
    assert np.median(np.abs(intervals - steps * 1000 / 30)) < 0.5


def test_a_camera_that_can_never_run_ends_with_the_reason() -> None:
    camera = soft.SoftwareCamera(size=SMALL)
    wanted = Profile(1920, 1080, 30)
    capture = Capture(lambda: RealSenseSource(camera.device, wanted), Sink(), time.time_ns, rate_hz=30.0)
    until(lambda: capture.finished is not None)
    capture.close()
    assert "it offers: 160x120x30" in str(capture.finished)


def test_a_recording_loops_when_asked(recording: Path) -> None:
    sink = Sink()
    capture = Capture(
        lambda: RecordingSource(recording, real_time=False), sink, time.time_ns, rate_hz=30.0, loop=True
    )
    until(lambda: sink.numbers.count(20) >= 2)
    capture.close()
    stamps = [stamp for stamp, _ in sink.frames]
    assert stamps == sorted(set(stamps))
    assert capture.finished is None
