"""The camera node as a real process over DDS, on a software camera of the SDK, a recording and an episode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_factory import make_episode
from grape_episodes import contract
from grape_episodes.writer import write_episode

pytestmark = pytest.mark.ros
pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

import software_camera as soft  # noqa: E402 (after the skip)

NODE = "grape_policy.nodes.camera_node"
SCRIPT = str(Path(soft.__file__).with_name("software_camera_node.py"))
KEYS = ("color_image", "depth_image", "camera_info", "heartbeat", "diagnostics")


def pixels(message: Any) -> np.ndarray:
    from grape_policy.nodes.messages import from_image

    return from_image(message)


def stamps_ns(messages: list[Any]) -> list[int]:
    return [int(m.header.stamp.sec) * 10**9 + int(m.header.stamp.nanosec) for m in messages]


def status(message: Any) -> dict[str, Any]:
    """Return what a diagnostics message says about the camera; empty when it is about something else."""
    for entry in message.status:
        if entry.name == "grape/camera":
            return {"level": entry.level, "message": entry.message, **{v.key: v.value for v in entry.values}}
    return {}


@pytest.fixture
def camera(ros_environment: dict[str, str], probe: Any) -> Any:
    """Start the node on a software camera; its process can be signalled."""
    path = os.pathsep.join([str(Path(SCRIPT).parent), ros_environment.get("PYTHONPATH", "")])
    running: list[subprocess.Popen[str]] = []

    def begin(*parameters: str) -> subprocess.Popen[str]:
        arguments = [item for parameter in parameters for item in ("-p", parameter)]
        command = [sys.executable, SCRIPT, *(["--ros-args", *arguments] if arguments else [])]
        environment = {**ros_environment, "PYTHONPATH": path}
        running.append(subprocess.Popen(command, env=environment, text=True, start_new_session=True))
        return running[-1]

    probe.listen(*KEYS)
    yield begin
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=15) in (0, -signal.SIGKILL)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def test_content_stamps_intrinsics_heartbeat_and_report(camera: Callable[..., Any], probe: Any) -> None:
    camera()
    probe.until(lambda: len(probe.received["depth_image"]) >= 30, 30, "depth images")
    probe.until(lambda: len(probe.received["heartbeat"]) >= 5, 5, "heartbeats")
    info = probe.wait_for("camera_info")
    np.testing.assert_allclose(np.reshape(info.k, (3, 3))[0], [600.0, 0.0, 319.5])
    assert (info.width, info.height) == (640, 480)
    depths = dict(zip(stamps_ns(probe.received["depth_image"]), probe.received["depth_image"], strict=True))
    colours = probe.received["color_image"]
    stamps = stamps_ns(colours)
    assert stamps == sorted(set(stamps))
    assert abs(time.time_ns() - stamps[-1]) < 2e9
    paired = 0
    for message, stamp in zip(colours, stamps, strict=True):
        assert message.header.frame_id == contract.document()["frames"]["camera"] == info.header.frame_id
        colour = pixels(message)
        number = int(colour[0, 0, 0])  # modulo 256, as everything that depends on it
        np.testing.assert_array_equal(colour, soft.colour_image(number))
        if stamp in depths:
            paired += 1
            seen = pixels(depths[stamp])
            assert set(np.unique(seen)) - {0} == {800 + number}
    assert paired >= 25
    assert {beat.frame_id for beat in probe.received["heartbeat"]} == {"camera"}
    probe.wait_for("diagnostics", lambda m: status(m).get("published", "0") != "0")
    report = status(probe.received["diagnostics"][-1])
    assert int(report["repeated"]) == 0
    assert "streams" in report["message"]


def test_an_unplugged_camera_is_silent_reported_and_used_again(camera: Any, probe: Any) -> None:
    process = camera("frame_timeout:=0.5")
    images = probe.received["color_image"]
    probe.until(lambda: len(images) >= 10, 30, "images")
    process.send_signal(signal.SIGUSR1)
    probe.spin(1.0)
    probe.received["diagnostics"].clear()
    count = len(images)
    lost = probe.wait_for("diagnostics", lambda m: status(m).get("level") == b"\x02")
    assert "next attempt in" in status(lost)["message"]
    assert len(images) == count  # nothing is repeated while it is away
    process.send_signal(signal.SIGUSR2)
    probe.until(lambda: len(images) >= count + 10, 20, "images of the new camera")
    stamps = stamps_ns(images)
    assert stamps == sorted(set(stamps))
    probe.received["diagnostics"].clear()
    again = probe.wait_for("diagnostics", lambda m: int(status(m).get("reconnects", 0)) >= 1)
    assert status(again)["level"] != b"\x02"


def test_a_second_camera_has_its_own_topics(camera: Any, probe: Any) -> None:
    from grape_policy.nodes import base
    from sensor_msgs.msg import Image

    wrist: list[Any] = []
    topic = contract.topics()["color_image"].name.replace("/camera/camera/", "/camera/wrist/")
    probe.node.create_subscription(Image, topic, wrist.append, base.qos_profile("color_image"))
    camera("serials:='0001,wrist=0002'")
    probe.until(lambda: len(wrist) > 5 and len(probe.received["color_image"]) > 5, 30, "images of both")
    assert wrist[0].header.frame_id == "wrist_color_optical_frame"


def test_an_episode_is_played_with_fresh_stamps(start: Any, probe: Any, tmp_path: Path) -> None:
    episode = make_episode(5)
    folder = write_episode(tmp_path, episode)
    probe.listen(*KEYS)
    start(NODE, playback=str(folder), playback_end="loop")
    probe.until(lambda: len(probe.received["depth_image"]) >= 8, 30, "depth images")
    for key, arrays in (("color_image", episode.images), ("depth_image", episode.depths)):
        assert arrays is not None
        first = next(i for i, a in enumerate(arrays) if np.array_equal(a, pixels(probe.received[key][0])))
        for index, message in enumerate(probe.received[key]):
            np.testing.assert_array_equal(pixels(message), arrays[(first + index) % len(arrays)])
    stamps = stamps_ns(probe.received["color_image"])
    assert stamps == sorted(set(stamps))
    assert abs(time.time_ns() - stamps[-1]) < 2e9
    info = probe.wait_for("camera_info")
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), episode.camera.intrinsics)


def test_a_recording_of_the_sdk_is_played_and_then_silent(start: Any, probe: Any, tmp_path: Path) -> None:
    soft.record(tmp_path / "some.db3", 120)  # long enough for the probe to be known before the end
    probe.listen(*KEYS)
    start(NODE, playback=str(tmp_path / "some.db3"), playback_end="stop")
    done = probe.wait_for("diagnostics", lambda m: "played to the end" in status(m).get("message", ""), 30)
    assert status(done)["level"] == b"\x02"
    images = probe.received["color_image"]
    assert len(images) >= 10
    for message in images:
        colour = pixels(message)
        np.testing.assert_array_equal(colour, soft.colour_image(int(colour[0, 0, 0]), 160, 120))


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("color_profile:=big", "640x480x30"),
        ("serials:='wrist=1'", "must have no name"),
        ("playback_end:=explode", "loop or stop"),
        ("playback:=/nowhere/some.db3", "no such file"),
    ],
)
def test_what_it_cannot_do_ends_it_with_the_reason(
    ros_environment: dict[str, str], parameter: str, message: str
) -> None:
    command = [sys.executable, "-m", NODE, "--ros-args", "-p", parameter]
    run = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert message in run.stderr + run.stdout
