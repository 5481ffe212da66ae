"""The recorder as a process, fed over real DDS; what it writes is read back by independent readers."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from episode_factory import make_episode
from fake_stack import Graph, Sensors
from grape_episodes import contract
from grape_episodes.catalogue import Catalogue
from grape_episodes.quarantine import read_note
from grape_episodes.reader import read_episode, read_manifest
from grape_episodes.recovery import recover
from grape_episodes.writer import EpisodeWriter, write_episode
from grape_policy.nodes import base
from rosbags.highlevel import AnyReader

pytestmark = pytest.mark.ros
RECORDER = "recorder_node"
EPISODE = "synthetic-0001"


def start(graph: Graph, **fields: Any) -> Any:
    manifest = make_episode(steps=1, episode_id=EPISODE).manifest
    names = ("episode_id", "task", "instruction", "initial_state_id", "policy_version", "temperature", "seed")
    return graph.call("start_recording", **({name: getattr(manifest, name) for name in names} | fields))


def sensors_for(graph: Graph) -> Sensors:
    """Return running sensors; a recording needs a publisher of events too."""
    base.publisher(graph.node, "episode_event")
    sensors = Sensors(graph.node)
    sensors.episode_id = EPISODE
    return sensors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "episodes"


@pytest.fixture
def graph(ros_environment: dict[str, str]) -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


def test_records_a_stream_that_independent_readers_read(graph: Graph, root: Path) -> None:
    graph.launch(RECORDER, episodes_folder=root)
    stream = sensors_for(graph)
    started = start(graph)
    assert started.success, started.message
    at_start = dict(stream.sent)
    stream.acting = True
    assert graph.spin_until(lambda: stream.step >= 18, 30.0)
    stream.acting = False  # no pause: what is on its way when it is asked to stop belongs to the episode
    sent = {key: stream.sent[key] - at_start[key] for key in stream.sent}
    refused = graph.call("stop_recording", outcome="splendid")
    assert not refused.success
    assert "'splendid' is not one of success" in refused.message
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
    listed = Catalogue(root / "catalogue.sqlite").episodes()
    assert [entry.episode_id for entry in listed] == [EPISODE]


def test_refuses_to_start_without_sensors_and_names_them(graph: Graph, root: Path) -> None:
    graph.launch(RECORDER, episodes_folder=root, start_timeout_seconds=1.0)
    answer = start(graph)
    assert not answer.success
    assert "/joint_states" in answer.message
    assert not list(root.glob("synthetic*")), "a recording that never began leaves nothing behind"

    assert "no episode" in graph.call("stop_recording", outcome="success").message
    answer = start(graph, episode_id="../escape")
    assert not answer.success
    assert "episode_id" in answer.message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupt_closes_the_episode_and_kill_leaves_it_recoverable(
    graph: Graph, root: Path, number: signal.Signals
) -> None:
    process = graph.launch(RECORDER, episodes_folder=root)
    sensors = sensors_for(graph)
    assert start(graph).success
    sensors.acting = True
    assert graph.spin_until(lambda: sensors.step >= 9, 30.0)
    process.send_signal(number)
    process.wait(timeout=10)
    folder = root / EPISODE
    if number == signal.SIGKILL:
        assert not folder.exists()
        folder = recover(folder.with_name(EPISODE + ".part"))
    manifest = read_manifest(folder)
    assert manifest.outcome == "aborted"
    assert manifest.steps >= 3
    with AnyReader([folder]) as reader:
        assert reader.message_count > 50


def test_restart_recovers_what_a_killed_recorder_left(graph: Graph, root: Path) -> None:
    process = graph.launch(RECORDER, episodes_folder=root)
    sensors = sensors_for(graph)
    assert start(graph).success
    sensors.acting = True
    assert graph.spin_until(lambda: sensors.step >= 9, 30.0)
    sensors.acting = False
    process.kill()
    process.wait(timeout=10)
    graph.launch(RECORDER, episodes_folder=root)
    catalogue = Catalogue(root / "catalogue.sqlite")
    assert graph.spin_until(catalogue.episodes, 60.0), "not recovered"
    assert [entry.outcome for entry in catalogue.episodes()] == ["aborted"]
    assert read_manifest(catalogue.episodes()[0].folder).stop_reason == "CUT_OFF"


def test_start_lists_what_a_kill_left_unlisted_and_sets_aside_what_holds_nothing(
    graph: Graph, root: Path
) -> None:
    folder = write_episode(root, make_episode(steps=2))
    empty = EpisodeWriter(root, make_episode(steps=1, episode_id=EPISODE).manifest).part
    graph.launch(RECORDER, episodes_folder=root)
    catalogue = Catalogue(root / "catalogue.sqlite")
    assert graph.spin_until(catalogue.episodes, 60.0), "not listed"
    assert [entry.folder for entry in catalogue.episodes()] == [folder]
    assert graph.spin_until(lambda: not empty.exists(), 20.0)
    assert read_note(root / "quarantine" / empty.name)["reason"] == "CUT_OFF"


def test_a_full_disk_costs_one_episode_and_what_was_written_is_recovered_at_the_next(
    graph: Graph, root: Path
) -> None:
    process = graph.launch(RECORDER, episodes_folder=root)
    sensors = sensors_for(graph)
    assert start(graph).success
    sensors.acting = True
    assert graph.spin_until(lambda: sensors.step >= 3, 30.0)
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
    assert graph.spin_until(lambda: sensors.step >= 9, 30.0)
    sensors.acting = False
    answer = graph.call("stop_recording", outcome="failure")
    assert not answer.success
    assert "Cannot write the episode" in answer.message
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    assert start(graph, episode_id="synthetic-0002").success
    (saved,) = Catalogue(root / "catalogue.sqlite").episodes()
    assert (saved.episode_id, saved.outcome) == (EPISODE, "aborted")
    assert graph.call("stop_recording", outcome="aborted", stop_reason="CANCELLED").success
    assert read_manifest(root / "synthetic-0002").stop_reason == "CANCELLED"


def test_no_disk_space_is_refused_before_the_episode_starts(graph: Graph, root: Path) -> None:
    graph.launch(RECORDER, episodes_folder=root, minimum_free_gigabytes=999999.0)
    answer = start(graph)
    assert not answer.success
    assert "disk space" in answer.message


def test_a_second_recorder_in_the_same_folder_is_refused(graph: Graph, root: Path) -> None:
    graph.launch(RECORDER, episodes_folder=root)
    graph.call("stop_recording", outcome="success")  # it is up
    second = graph.launch(RECORDER, episodes_folder=root)
    assert second.wait(timeout=30) == 1
    assert "another recorder" in second.stderr.read()
