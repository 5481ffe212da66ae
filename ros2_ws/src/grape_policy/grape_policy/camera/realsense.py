"""RealSense cameras and recordings through ``pyrealsense2``: colour, and depth aligned to it.

The streams are opened one by one and matched by the SDK's syncer, not by its pipeline: the pipeline fills a
missing depth image with the last one, which would then pass for new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs

from grape_policy.camera.types import (
    CameraError,
    CameraSettingsError,
    Clock,
    EndOfPlayback,
    Intrinsics,
    RawFrame,
)

CLOCKS = {
    rs.timestamp_domain.hardware_clock: Clock.DEVICE,
    rs.timestamp_domain.system_time: Clock.HOST,
    rs.timestamp_domain.global_time: Clock.HOST,  # the SDK's translation of the device's clock
}
QUEUE = 2  # framesets; when we are slow the oldest are lost, and counted as dropped
MILLIMETRE = 0.001


@dataclass(frozen=True)
class Profile:
    """Size (px) and rate (Hz) of a stream, written ``640x480x30``."""

    width: int
    height: int
    rate_hz: int

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Return the profile in ``text``.

        Raises:
            CameraSettingsError: not three positive whole numbers.
        """
        parts = text.split("x")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise CameraSettingsError(f"stream profile {text!r} is not like 640x480x30: width, height, rate")
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.rate_hz}"


def find_device(serial: str, context: Any) -> Any:
    """Return the connected device with this serial number; an empty one means: the only device.

    Raises:
        CameraError: it is not connected, or there are several to choose from.
    """
    devices = {d.get_info(rs.camera_info.serial_number): d for d in context.query_devices()}
    if serial in devices:
        return devices[serial]
    found = f"connected: {', '.join(sorted(devices))}" if devices else "no RealSense camera is connected"
    if serial or not devices:
        raise CameraError(f"no camera {serial or 'found'}; {found}. Check cable, power and serial number")
    if len(devices) > 1:
        raise CameraError(f"several cameras and no serial number; {found}. Set one")
    return next(iter(devices.values()))


class RealSenseSource:
    """Colour and aligned depth of one device, live or played.

    Args:
        device: an ``rs.device``, not yet streaming.
        colour: profile of the colour stream; None: the first the device has, as in a recording.
        depth: profile of the depth stream; None as above.
        preset: visual preset such as ``high_accuracy``; empty: as the device is.

    Raises:
        CameraSettingsError: the device has no such stream or preset; the message lists those it has.
        CameraError: the device is in use or does not answer.
    """

    def __init__(
        self, device: Any, colour: Profile | None = None, depth: Profile | None = None, preset: str = ""
    ) -> None:
        self._device = device
        self._sensors: list[Any] = []
        self.name = _information(device, "name") + " " + _information(device, "serial_number")
        sensors = device.query_sensors()
        chosen = [
            _choose(sensors, rs.stream.color, (rs.format.rgb8, rs.format.bgr8), colour),
            _choose(sensors, rs.stream.depth, (rs.format.z16,), depth),
        ]
        self.rate_hz = float(chosen[0][1].fps())
        self.intrinsics = _intrinsics(chosen[0][1].as_video_stream_profile().intrinsics)
        self._syncer, self._align = rs.syncer(QUEUE), rs.align(rs.stream.color)
        try:
            _set_preset(chosen[1][0], preset)
            self._start(chosen)
        except RuntimeError as error:
            self.close()
            raise CameraError(f"{self.name} does not start: {error}") from error

    def _start(self, chosen: list[tuple[Any, Any]]) -> None:
        for sensor in dict.fromkeys(sensor for sensor, _ in chosen):
            _set_when_supported(sensor, rs.option.global_time_enabled, 1.0)
            # Else the camera takes longer exposures in poor light and leaves its rate.
            _set_when_supported(sensor, rs.option.auto_exposure_priority, 0.0)
            sensor.open([profile for owner, profile in chosen if owner is sensor])
            self._sensors.append(sensor)
            sensor.start(self._syncer)

    def read(self, timeout: float) -> RawFrame | None:
        """Return the next frame that has a colour image; see :class:`Source`."""
        try:
            came, frames = self._syncer.try_wait_for_frames(max(1, round(timeout * 1e3)))
            if not came:
                if not self._device.is_connected():
                    raise CameraError(f"{self.name} was unplugged")
                return None
            return self._frame(frames)
        except RuntimeError as error:
            if isinstance(error, CameraError):
                raise
            raise CameraError(f"{self.name} failed: {error}") from error

    def _frame(self, frames: Any) -> RawFrame | None:
        colour = frames.get_color_frame()
        if not colour:
            return None
        depth = frames.get_depth_frame()
        paired = bool(depth) and abs(depth.get_timestamp() - colour.get_timestamp()) < 500.0 / self.rate_hz
        return RawFrame(
            _rgb(colour),
            _millimetres(self._align.process(frames).get_depth_frame()) if paired else None,
            int(colour.get_frame_number()),
            float(colour.get_timestamp()),
            CLOCKS[colour.get_frame_timestamp_domain()],
        )

    def close(self) -> None:
        """Stop and close the sensors; a device that is gone cannot refuse."""
        for sensor in self._sensors:
            for step in (sensor.stop, sensor.close):
                try:
                    step()
                except RuntimeError:
                    continue
        self._sensors = []


class RecordingSource:
    """Plays a recording of the SDK (``.db3``, or ``.bag`` of older versions) once.

    Frames are stamped when they come: what was recorded long ago looks as if it happened now.

    Args:
        path: the file.
        real_time: at the pace of the recording; else as fast as the frames are taken.

    Raises:
        CameraSettingsError: no readable recording with colour and depth.
    """

    def __init__(self, path: Path, real_time: bool = True) -> None:
        if not path.is_file():
            raise CameraSettingsError(f"recording {path}: no such file")
        try:
            self._playback = rs.context().load_device(str(path)).as_playback()
        except RuntimeError as error:
            raise CameraSettingsError(f"recording {path}: {error}; it must be made by the SDK") from error
        self._playback.set_real_time(real_time)
        self._source = RealSenseSource(self._playback)
        self.name, self.intrinsics = f"recording {path.name}", self._source.intrinsics

    def read(self, timeout: float) -> RawFrame | None:
        """Return the next frame; see :class:`Source`."""
        frame = self._source.read(timeout)
        if frame is not None:
            return RawFrame(frame.colour, frame.depth, frame.number, frame.time_ms, Clock.ARRIVAL)
        if self._playback.current_status() == rs.playback_status.stopped:
            raise EndOfPlayback
        return None

    def close(self) -> None:
        """Close the file."""
        self._playback.set_real_time(True)  # else a reader that waits for room in our queue is never done
        self._source.close()


def _information(device: Any, name: str) -> str:
    field = getattr(rs.camera_info, name)
    return str(device.get_info(field)) if device.supports(field) else f"camera without {name}"


def _choose(
    sensors: list[Any], stream: Any, formats: tuple[Any, ...], wanted: Profile | None
) -> tuple[Any, Any]:
    """Return (sensor, profile) of the wanted stream; formats in order of preference."""
    offered: dict[tuple[Profile, Any], tuple[Any, Any]] = {}
    for sensor in sensors:
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() == stream and profile.format() in formats:
                video = profile.as_video_stream_profile()
                key = Profile(video.width(), video.height(), video.fps())
                offered.setdefault((key, profile.format()), (sensor, profile))
    for form in formats:
        for (key, offered_format), found in offered.items():
            if offered_format == form and wanted in (None, key):
                return found
    known = ", ".join(sorted({str(key) for key, _ in offered})) or "none"
    raise CameraSettingsError(f"the camera has no {stream.name} stream {wanted or ''}; it offers: {known}")


def _set_preset(sensor: Any, preset: str) -> None:
    presets = rs.rs400_visual_preset.__members__
    if not preset:
        return
    if preset not in presets:
        raise CameraSettingsError(f"preset {preset!r} is not one of {', '.join(presets)}")
    if not sensor.supports(rs.option.visual_preset):
        raise CameraSettingsError(f"preset {preset!r}: this camera has no visual presets; leave it empty")
    sensor.set_option(rs.option.visual_preset, float(int(presets[preset])))


def _set_when_supported(sensor: Any, option: Any, value: float) -> None:
    if sensor.supports(option) and not sensor.is_option_read_only(option):
        sensor.set_option(option, value)


def _intrinsics(found: Any) -> Intrinsics:
    matrix = np.array([[found.fx, 0.0, found.ppx], [0.0, found.fy, found.ppy], [0.0, 0.0, 1.0]])
    model = "equidistant" if found.model == rs.distortion.kannala_brandt4 else "plumb_bob"
    return Intrinsics(found.width, found.height, matrix, tuple(found.coeffs), model)


def _rgb(frame: Any) -> np.ndarray:
    pixels = np.asarray(frame.get_data())
    return pixels[..., ::-1] if frame.get_profile().format() == rs.format.bgr8 else pixels


def _millimetres(frame: Any) -> np.ndarray:
    """Return depth in mm; most cameras count in mm, some (D405) in tenths of them."""
    counts, unit = np.asarray(frame.get_data()), frame.get_units()
    if abs(unit - MILLIMETRE) < 1e-6:
        return counts
    scaled = np.rint(counts.astype(np.float32) * (unit / MILLIMETRE))
    return np.minimum(scaled, np.iinfo(np.uint16).max).astype(np.uint16)
