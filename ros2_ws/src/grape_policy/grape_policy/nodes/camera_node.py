"""Camera node: RealSense cameras, a recording or an episode, on the contract's topics.

Run with ``python -m grape_policy.nodes.camera_node --ros-args -p serials:=012345678901``. Each camera runs in
a thread of its own (``grape_policy.camera``); this node names topics, makes messages and reports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyrealsense2 as rs
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grape_episodes import contract

from grape_policy.camera.capture import Capture, StampedFrame
from grape_policy.camera.episode import EpisodeSource
from grape_policy.camera.realsense import Profile, RealSenseSource, RecordingSource, find_device
from grape_policy.camera.types import Intrinsics, Source
from grape_policy.nodes import base
from grape_policy.nodes.messages import to_camera_info, to_image, to_stamp
from grape_policy.nodes.parameters import Parameter

MAIN = "camera"  # the camera whose topics the contract names
PARAMETERS = (
    Parameter(
        "serials", "", "Serial number; empty: the only one. More: 0123,wrist=4567 (/camera/wrist/...)."
    ),
    Parameter("color_profile", "640x480x30", "Width, height and rate of the colour stream."),
    Parameter("depth_profile", "640x480x30", "Width, height and rate of the depth stream before alignment."),
    Parameter("preset", "", "Visual preset such as high_accuracy; empty: as the camera is."),
    Parameter("frame_timeout", 1.0, "Without a new frame for this long it is opened again.", 0.1, 30.0, "s"),
    Parameter("playback", "", "Recording (.db3, .bag) or folder of an episode to play instead of a camera."),
    Parameter("playback_end", "loop", "At the end of what is played: loop, or stop (it falls silent)."),
    Parameter("playback_pace", "recorded", "Pace of what is played: recorded, or fast (as fast as it can)."),
)


def parse_serials(text: str) -> dict[str, str]:
    """Return name -> serial number of ``0123,wrist=4567``; the first without a name is the contract's camera.

    Raises:
        ValueError: a name twice, not usable in a topic, or no camera for the contract's topics.
    """
    cameras: dict[str, str] = {}
    for part in text.split(","):
        name, _, serial = part.strip().rpartition("=")
        name = name or MAIN
        if name in cameras or not name.isidentifier():
            raise ValueError(
                f"serials = {text!r}: {name!r} is there twice or is no name; use 0123,wrist=4567"
            )
        cameras[name] = serial
    if MAIN not in cameras:
        raise ValueError(f"serials = {text!r}: one camera must have no name, the one the policy sees")
    return cameras


class CameraNode(base.ManagedNode):
    """One or several cameras, open while the node is active.

    Args:
        find: returns the ``rs.device`` of a serial number; tests give software devices.
    """

    def __init__(self, find: Callable[[str], Any] | None = None) -> None:
        super().__init__("camera", PARAMETERS)
        self._find = find

    def configure(self) -> None:
        """Check what is asked for; the cameras themselves are opened, again and again, while active."""
        self._check_choices()
        if self._find is None:
            context = rs.context()
            self._find = lambda serial: find_device(serial, context)
        self._cameras = self._openers()

    def activate(self) -> None:
        """Open topics and cameras."""
        self._diagnostics = base.publisher(self, "diagnostics")
        self._streams = [self._stream(name, opener) for name, opener in self._cameras.items()]
        base.heartbeat(self, "camera")
        self.create_timer(1.0, self._report)

    def deactivate(self) -> None:
        """Close the cameras while messages can still be published."""
        for stream in self._streams:
            stream.capture.close()

    def _check_choices(self) -> None:
        for name, choices in (("playback_end", ("loop", "stop")), ("playback_pace", ("recorded", "fast"))):
            if getattr(self.parameters, name) not in choices:
                raise ValueError(f"camera: {name} must be {' or '.join(choices)}")

    def _openers(self) -> dict[str, Callable[[], Source]]:
        """Return for each camera's name what opens it."""
        chosen = self.parameters
        if chosen.playback:
            path, real_time = Path(chosen.playback).expanduser(), chosen.playback_pace == "recorded"
            kind = EpisodeSource if path.is_dir() else RecordingSource
            return {MAIN: lambda: kind(path, real_time)}
        profiles = Profile.parse(chosen.color_profile), Profile.parse(chosen.depth_profile)

        find = self._find
        assert find is not None

        def opener(serial: str) -> Callable[[], Source]:
            return lambda: RealSenseSource(find(serial), *profiles, chosen.preset)

        cameras = parse_serials(chosen.serials)
        return {name: opener(cameras[name]) for name in sorted(cameras, key=lambda name: name != MAIN)}

    def _stream(self, name: str, opener: Callable[[], Source]) -> _Stream:
        chosen = self.parameters
        capture_settings = {
            "rate_hz": float(Profile.parse(chosen.color_profile).rate_hz),
            "timeout": chosen.frame_timeout,
            "loop": chosen.playback_end == "loop",
        }
        return _Stream(self, name, opener, capture_settings)

    def _report(self) -> None:
        message = DiagnosticArray(status=[stream.status() for stream in self._streams])
        message.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(message)
        if reason := self._streams[0].capture.finished:  # the policy's camera can never run as asked
            self.get_logger().error(reason)
            self.exit_code = 1


class _Stream:
    """Topics, capture and report of one camera."""

    def __init__(
        self, node: CameraNode, name: str, opener: Callable[[], Source], settings: dict[str, Any]
    ) -> None:
        self._node, self._name = node, name
        self._frame = str(contract.document()["frames"]["camera"]).replace(MAIN, name, 1)
        self._colour, self._depth, self._info = (
            base.publisher(
                node, key, contract.topics()[key].name.replace(f"/{MAIN}/{MAIN}/", f"/{MAIN}/{name}/")
            )
            for key in ("color_image", "depth_image", "camera_info")
        )
        self._intrinsics: Intrinsics | None = None
        self._reported, self._said = 0, ""
        self.capture = Capture(opener, self._publish, self._now_ns, **settings)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _publish(self, frame: StampedFrame, intrinsics: Intrinsics) -> None:
        """Publish one frame; called in the camera's thread."""
        if intrinsics is not self._intrinsics:  # it was opened, perhaps again
            self._intrinsics = intrinsics
            self._info.publish(to_camera_info(intrinsics, frame.stamp_ns, self._frame))
        self._colour.publish(to_image(frame.colour, "rgb8", frame.stamp_ns, self._frame))
        if frame.depth is not None:
            self._depth.publish(to_image(frame.depth, "16UC1", frame.stamp_ns, self._frame))

    def status(self) -> Any:
        """Return the entry for /diagnostics: not streaming is an error, newly lost frames are a warning."""
        capture, counts = self.capture, self.capture.counts
        lost = counts.dropped + counts.late + counts.repeated + counts.without_depth
        level = DiagnosticStatus.WARN if lost > self._reported else DiagnosticStatus.OK
        level = level if capture.streaming else DiagnosticStatus.ERROR
        self._reported = lost
        if capture.state != self._said:
            self._said = capture.state
            self._node.get_logger().info(f"{self._name}: {capture.state}")
        values = {**asdict(counts), "clock_jumps": capture.clock_jumps, "rate_hz": f"{capture.rate_hz:.2f}"}
        return DiagnosticStatus(
            level=level,
            name="grape/camera" if self._name == MAIN else f"grape/camera/{self._name}",
            message=capture.state,
            hardware_id=self._name,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the cameras until they are stopped."""
    return base.spin(CameraNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
