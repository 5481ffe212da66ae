"""The recorder as a process, fed over real DDS; what it writes is read back by independent readers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from episode_factory import make_episode  # noqa: E402
from grape_episodes import contract, messages  # noqa: E402
from grape_episodes.catalogue import Catalogue  # noqa: E402
from grape_episodes.reader import read_episode, read_manifest  # noqa: E402
from grape_episodes.recovery import recover  # noqa: E402
from grape_policy.nodes import base  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402

pytestmark = pytest.mark.ros
EPISODE = "synthetic-0001"


class Stream:
    """Publishes synthetic sensors (10 Hz images, 50 Hz states) and actions that name the images' stamps."""

    def __init__(self, node: Any) -> None:
        recorded = [key for key, topic in contract.topics().items() if topic.recorded]
        self.publishers = {key: base.publisher(node, key) for key in recorded}
        self.sent: dict[str, int] = dict.fromkeys(recorded, 0)
        self.episode = make_episode(steps=40, episode_id=EPISODE)
        self.states, self.frames, self.step = 0, 0, 0
        self.acting = False
        self.stamps: list[int] = []
        self.publish("camera_info", messages.camera_info(contract.camera(), time.time_ns(), "camera"))
        node.create_timer(0.02, self.send_state)
        node.create_timer(0.1, self.send_images)

    def publish(self, key: str, message: Any) -> None:
        kind = base.interface_type(contract.topics()[key].type)
        self.publishers[key].publish(deserialize_message(messages.serialize(message), kind))
        self.sent[key] += 1

    def send_state(self) -> None:
        joints, now = np.full(7, 0.001 * self.states), time.time_ns()
        self.publish("joint_states", messages.joint_state(self.episode.joint_names, joints, now))
        pose = messages.pose(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 0.0, 1.0]), now, "base")
        self.publish("end_effector_pose", pose)
        self.states += 1

    def send_images(self) -> None:
        now, index = time.time_ns(), self.frames % 40
        self.publish("color_image", messages.color_image(self.episode.images[index], now, "camera"))
        self.publish("depth_image", messages.depth_image(self.episode.depths[index], now, "camera"))
        self.stamps.append(now)
        if self.acting and self.frames % 2 == 0:
            self.send_action(now)
        self.frames += 1

    def send_action(self, stamp: int) -> None:
        message = messages.action_delta(
            episode_id=EPISODE,
            step=self.step,
            action=self.episode.actions[self.step],
            token_ids=self.episode.token_ids[self.step],
            log_probabilities=self.episode.log_probabilities[self.step],
            policy_version="test-0123abcd",
            stamp=stamp,
            frame="base",
        )
        self.publish("action", message)
        self.step += 1


class Graph:
    """One recorder process and this process's publishers and clients."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "grape_policy.nodes.recorder_node", "--ros-args"]
        command += ["-p", f"episodes_folder:={folder}", *arguments]
        self.folder = folder
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        rclpy.init()
        self.node = rclpy.create_node("recorder_test")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.stream: Stream | None = None

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, key: str, **fields: Any) -> Any:
        client = base.client(self.node, key)
        assert client.wait_for_service(timeout_sec=20.0), "the recorder did not start"
        future = client.call_async(client.srv_type.Request(**fields))
        until = time.monotonic() + 15.0
        while not future.done() and time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.02)
        assert future.done(), f"{key} did not answer"
        return future.result()

    def start(self, **fields: Any) -> Any:
        manifest = make_episode(steps=1, episode_id=EPISODE).manifest
        names = (
            "episode_id",
            "task",
            "instruction",
            "initial_state_id",
            "policy_version",
            "temperature",
            "seed",
        )
        request = {name: getattr(manifest, name) for name in names} | fields
        return self.call("start_recording", **request)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        print(self.process.communicate(timeout=15)[1])  # shown by pytest when the test fails
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(tmp_path / "episodes", "-p", "start_timeout_seconds:=2.0")
    yield graph
    graph.close()


def test_records_a_stream_that_independent_readers_read(graph: Graph) -> None:
    graph.stream = stream = Stream(graph.node)
    started = graph.start()
    assert started.success, started.message
    at_start = dict(stream.sent)
    stream.acting = True
    graph.spin(4.0)
    stream.acting = False
    graph.spin(0.3)
    sent = {key: stream.sent[key] - at_start[key] for key in stream.sent}
    stopped = graph.call("stop_recording", outcome="success", success=True, grasped=True, reason="judged")
    assert stopped.success, stopped.message
    assert stopped.steps == stream.step >= 18

    episode = read_episode(Path(stopped.path))
    assert episode.manifest.success
    assert episode.manifest.source == "ros"
    assert episode.steps == stream.step
    np.testing.assert_array_equal(episode.actions, stream.episode.actions[: stream.step])
    np.testing.assert_array_equal(episode.token_ids, stream.episode.token_ids[: stream.step])
    frames = [stream.stamps.index(int(stamp)) for stamp in episode.stamps_ns]
    np.testing.assert_array_equal(episode.images, stream.episode.images[np.array(frames) % 40])
    np.testing.assert_array_equal(episode.depths, stream.episode.depths[np.array(frames) % 40])

    with AnyReader([Path(stopped.path)]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    for key in ("color_image", "depth_image", "joint_states", "end_effector_pose", "action"):
        assert counts[contract.topics()[key].name] >= sent[key], f"messages of {key} were dropped"
    listed = Catalogue(graph.folder / "catalogue.sqlite").episodes()
    assert [entry.episode_id for entry in listed] == [EPISODE]


def test_refuses_to_start_without_sensors_and_names_them(graph: Graph) -> None:
    answer = graph.start()
    assert not answer.success
    assert "/joint_states" in answer.message
    assert not list(graph.folder.glob("synthetic*")), "a recording that never began leaves nothing behind"


def test_refuses_bad_requests(graph: Graph) -> None:
    assert "no episode" in graph.call("stop_recording", outcome="success").message
    answer = graph.start(episode_id="../escape")
    assert not answer.success
    assert "episode_id" in answer.message


def test_interrupt_closes_the_episode_and_kill_leaves_it_recoverable(tmp_path: Path) -> None:
    for number, outcome in ((signal.SIGINT, "aborted"), (signal.SIGKILL, "aborted")):
        graph = Graph(tmp_path / number.name)
        try:
            graph.stream = Stream(graph.node)
            assert graph.start().success
            graph.stream.acting = True
            graph.spin(1.5)
            graph.process.send_signal(number)
            graph.process.wait(timeout=10)
            folder = graph.folder / EPISODE
            if number == signal.SIGKILL:
                assert not folder.exists()
                folder = recover(folder.with_name(EPISODE + ".part"))
            assert read_manifest(folder).outcome == outcome
            episode = read_episode(folder)
            assert episode.steps >= 3
        finally:
            graph.close()


def test_no_disk_space_is_refused_before_the_episode_starts(tmp_path: Path) -> None:
    graph = Graph(tmp_path / "episodes", "-p", "minimum_free_gigabytes:=999999.0")
    try:
        answer = graph.start()
        assert not answer.success
        assert "disk space" in answer.message
    finally:
        graph.close()


def test_a_second_recorder_in_the_same_folder_is_refused(graph: Graph) -> None:
    graph.call("stop_recording", outcome="success")  # it is up
    command = [sys.executable, "-m", "grape_policy.nodes.recorder_node", "--ros-args"]
    command += ["-p", f"episodes_folder:={graph.folder}"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ)
    assert second.returncode == 1
    assert "another recorder" in second.stderr
