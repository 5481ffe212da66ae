"""A RealSense camera in memory: the SDK's software device, fed with scenes the tests know."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pyrealsense2 as rs

WIDTH, HEIGHT, RATE = 640, 480, 30
COLOUR_FOCAL, DEPTH_FOCAL = 600.0, 400.0
BASELINE = 0.015  # m, the depth image's camera sees the colour camera this far to its right
SERIAL = "000000000001"


def colour_image(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return an image in which every frame differs from every other everywhere."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint32)
    return np.stack([rows + number, columns + 3 * number, rows * columns // 64 + 7 * number], -1).astype(
        np.uint8
    )


def depth_image(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return the depth (mm) of a plane in front of the camera, at another distance in every frame."""
    return np.full((height, width), 800 + number % 256, np.uint16)


class SoftwareCamera:
    """One device with a depth and a colour stream. Its clock is its own unless told otherwise."""

    def __init__(
        self,
        serial: str = SERIAL,
        size: tuple[int, int] = (WIDTH, HEIGHT),
        *,
        preset: bool = False,
        colour_format: Any = rs.format.rgb8,
    ) -> None:
        self.width, self.height = size
        self.device = rs.software_device()
        self.device.create_matcher(rs.matchers.default)
        self.device.register_info(rs.camera_info.name, "software camera")
        self.device.register_info(rs.camera_info.serial_number, serial)
        self._depth_sensor = self.device.add_sensor("Stereo Module")
        self._colour_sensor = self.device.add_sensor("RGB Camera")
        self._depth = self._stream(self._depth_sensor, rs.stream.depth, 0, rs.format.z16, DEPTH_FOCAL)
        self._colour = self._stream(self._colour_sensor, rs.stream.color, 1, colour_format, COLOUR_FOCAL)
        self._depth_sensor.add_read_only_option(rs.option.depth_units, 0.001)
        if preset:
            choices = rs.option_range()
            choices.min, choices.max, choices.step, choices.default = 0.0, 6.0, 1.0, 1.0
            self._depth_sensor.add_option(rs.option.visual_preset, choices)
        extrinsics = rs.extrinsics()
        extrinsics.rotation, extrinsics.translation = np.eye(3).ravel().tolist(), [BASELINE, 0.0, 0.0]
        self._depth.register_extrinsics_to(self._colour, extrinsics)
        for sensor in (self._depth_sensor, self._colour_sensor):
            sensor.set_metadata(rs.frame_metadata_value.actual_fps, RATE * 1000)

    def _stream(self, sensor: Any, kind: Any, uid: int, form: Any, focal: float) -> Any:
        stream, intrinsics = rs.video_stream(), rs.intrinsics()
        intrinsics.width, intrinsics.height = self.width, self.height
        intrinsics.fx = intrinsics.fy = focal * self.width / WIDTH
        intrinsics.ppx, intrinsics.ppy = self.width / 2 - 0.5, self.height / 2 - 0.5
        intrinsics.model, intrinsics.coeffs = rs.distortion.inverse_brown_conrady, [0.0] * 5
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, uid, form
        stream.width, stream.height, stream.fps = self.width, self.height, RATE
        stream.bpp, stream.intrinsics = 2 if kind == rs.stream.depth else 3, intrinsics
        return rs.video_stream_profile(sensor.add_video_stream(stream))

    def send(
        self,
        number: int,
        *,
        colour: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        time_ms: float | None = None,
        with_depth: bool = True,
        domain: Any = rs.timestamp_domain.hardware_clock,
        depth_unit: float = 0.001,
    ) -> None:
        """Hand one frame of each stream to the SDK, captured at ``time_ms`` of the device's clock."""
        when = 100_000.0 + number * 1000.0 / RATE if time_ms is None else time_ms
        size = (self.width, self.height)
        if with_depth:
            pixels = depth_image(number, *size) if depth is None else depth
            frame = self._frame(self._depth, pixels, number, when, domain)
            frame.depth_units = depth_unit
            self._depth_sensor.on_video_frame(frame)
        pixels = colour_image(number, *size) if colour is None else colour
        self._colour_sensor.on_video_frame(self._frame(self._colour, pixels, number, when, domain))

    def _frame(self, profile: Any, pixels: np.ndarray, number: int, when: float, domain: Any) -> Any:
        frame = rs.software_video_frame()
        frame.pixels = np.ascontiguousarray(pixels)
        frame.bpp = pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
        frame.stride = self.width * frame.bpp
        frame.timestamp, frame.domain, frame.frame_number, frame.profile = when, domain, number, profile
        return frame


class Feeder:
    """Feeds a software camera at its rate from a thread, until it is stopped, from number ``first``."""

    def __init__(self, camera: SoftwareCamera, first: int = 1, rate_hz: float = RATE, **fields: Any) -> None:
        self._camera, self._period, self._fields = camera, 1.0 / rate_hz, fields
        self.number = first - 1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        start, first = time.monotonic(), self.number
        while not self._stopping.is_set():
            self.number += 1
            self._camera.send(self.number, **self._fields)
            due = start + (self.number - first) * self._period
            self._stopping.wait(max(0.0, due - time.monotonic()))


def record(path: Any, frames: int, size: tuple[int, int] = (160, 120)) -> None:
    """Make a recording of the SDK with the frames 1 to ``frames`` of a software camera."""
    camera = SoftwareCamera(size=size)
    recorder = rs.recorder(str(path), camera.device)
    queue = rs.frame_queue(2 * frames)
    sensors = recorder.query_sensors()
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles())
        sensor.start(queue)
    for number in range(1, frames + 1):
        camera.send(number)
        time.sleep(1.0 / RATE)
    time.sleep(0.3)  # the recorder writes in a thread of its own
    for sensor in sensors:
        sensor.stop()
        sensor.close()
