"""A killed writer, a full disk, a crash while finishing: nothing half-written counts, little is lost."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from episode_factory import make_episode, make_manifest
from grape_episodes import contract, messages
from grape_episodes.bag import FLUSH_SECONDS
from grape_episodes.reader import read_episode, read_manifest
from grape_episodes.recovery import recover
from grape_episodes.types import EpisodeError
from grape_episodes.writer import EpisodeWriter, episode_messages
from rosbags.highlevel import AnyReader

FORK = multiprocessing.get_context("fork")
ID = "killed"


def write_for_ever(root: Path, step_count: Any) -> None:
    """Write an episode at ten times the real pace until killed; ``step_count`` counts the actions."""
    episode = make_episode(steps=90, episode_id=ID)
    writer = EpisodeWriter(root, episode.manifest)
    for key, message, stamp in episode_messages(episode):
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
        if key == "action":
            step_count.value += 1
            time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_mid_episode_loses_at_most_the_last_half_second(tmp_path: Path) -> None:
    steps = FORK.Value("i", 0)
    process = FORK.Process(target=write_for_ever, args=(tmp_path, steps))
    process.start()
    deadline = time.monotonic() + 30.0
    while steps.value < 50 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == [f"{ID}.part"]
    assert read_manifest(tmp_path / f"{ID}.part").outcome == "aborted"

    folder = recover(tmp_path / f"{ID}.part")
    assert [path.name for path in tmp_path.iterdir()] == [ID]
    assert sorted(path.name for path in folder.iterdir()) == ["episode.json", f"{ID}_0.mcap", "metadata.yaml"]
    episode = read_episode(folder)
    lost = steps.value - read_manifest(folder).steps
    assert 0 <= lost <= FLUSH_SECONDS / 0.02 + 1
    assert episode.manifest.outcome == "aborted"
    assert "recovered" in episode.manifest.reason
    expected = make_episode(steps=90)
    assert (episode.images == expected.images[: episode.steps + 1]).all()
    with AnyReader([folder]) as reader:
        assert reader.message_count > 4 * episode.steps


@pytest.mark.parametrize("left", [1.0, 0.7, 0.4])
def test_recovery_takes_every_whole_chunk_of_a_cut_file(tmp_path: Path, left: float) -> None:
    episode = make_episode(steps=12, episode_id=ID)
    writer = EpisodeWriter(tmp_path, episode.manifest)
    for key, message, stamp in episode_messages(episode):
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    writer.flush()
    path = writer.part / f"{ID}_0.mcap"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left)])
    recovered = read_episode(recover(writer.part))
    assert recovered.steps >= int(12 * left) - 3
    assert (recovered.actions == episode.actions[: recovered.steps]).all()


def test_a_recording_cut_off_between_an_image_and_its_depth_loses_that_image_only(tmp_path: Path) -> None:
    episode = make_episode(steps=12, episode_id=ID)
    everything = list(episode_messages(episode))
    last = max(i for i, (key, _, _) in enumerate(everything) if key == "depth_image")
    writer = EpisodeWriter(tmp_path, episode.manifest)
    for key, message, stamp in everything[:last] + everything[last + 1 :]:
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    writer.flush()
    recovered = read_episode(recover(writer.part))
    assert recovered.steps == 11
    assert (recovered.images == episode.images[:12]).all()


def test_recovery_can_be_killed_and_run_again(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, make_manifest(episode_id=ID))
    for key, message, stamp in episode_messages(make_episode(steps=3, episode_id=ID)):
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    writer.flush()
    (writer.part / f"{ID}_0.mcap.rescued").write_bytes(b"left by a recovery that was killed")
    assert read_episode(recover(writer.part)).steps == 3


def test_a_crash_between_finishing_and_renaming_keeps_the_verdict(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, make_manifest(episode_id=ID))
    for key, message, stamp in episode_messages(make_episode(steps=3, episode_id=ID)):
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    folder = writer.finish(outcome="success", success=True, reason="on the plate")
    folder.rename(writer.part)
    manifest = read_episode(recover(writer.part)).manifest
    assert (manifest.outcome, manifest.success, manifest.reason) == ("success", True, "on the plate")


def test_nothing_to_recover_is_said(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, make_manifest(episode_id=ID))
    with pytest.raises(EpisodeError, match="No whole message is left"):
        recover(writer.part)
    with pytest.raises(EpisodeError, match="Not the folder of an unfinished episode"):
        recover(tmp_path / "elsewhere")


def write_with_a_small_disk(root: Path, answer: Any) -> None:
    """Write until the largest allowed file is full: the same refusal by write() as from a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    episode = make_episode(steps=60, episode_id=ID)
    writer = EpisodeWriter(root, episode.manifest)
    try:
        for key, message, stamp in episode_messages(episode):
            topic = contract.topics()[key]
            writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    except EpisodeError as error:
        answer.put(str(error))
    else:
        answer.put("no error")


def test_a_full_disk_is_reported_and_what_was_written_is_recovered(tmp_path: Path) -> None:
    answer = FORK.Queue()
    process = FORK.Process(target=write_with_a_small_disk, args=(tmp_path, answer))
    process.start()
    message = answer.get(timeout=30)
    process.join()
    assert "Cannot write the episode" in message
    assert "Free disk space" in message
    assert process.exitcode == 0, "the refused file is let go without a second error"
    assert read_episode(recover(tmp_path / f"{ID}.part")).steps >= 3
