"""Episodes survive a round trip exactly; what is damaged or does not fit together is refused and why."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_factory import ARRAYS, make_episode, make_manifest
from grape_episodes import contract, messages
from grape_episodes.manifest import new_episode_id, read_manifest
from grape_episodes.reader import read_episode
from grape_episodes.types import Episode, EpisodeError
from grape_episodes.writer import EpisodeWriter, episode_messages, write_episode

MESSAGES = Path(__file__).parents[2] / "ros2_ws" / "src" / "grape_msgs" / "msg"
Stream = list[tuple[str, Any, int]]


def record(root: Path, episode: Episode, edit: Callable[[Stream], Stream] = lambda stream: stream) -> Path:
    """Write the episode's messages after ``edit``, as a recorder that checks nothing would."""
    writer = EpisodeWriter(root, episode.manifest)
    for key, message, stamp in edit(list(episode_messages(episode))):
        topic = contract.topics()[key]
        writer.write_raw(topic.name, topic.type, messages.serialize(message), stamp)
    return writer.finish(outcome="success", success=True, grasped=True)


@pytest.mark.parametrize("depth", [True, False])
def test_round_trip_is_exact(tmp_path: Path, depth: bool) -> None:
    episode = make_episode(steps=5, depth=depth, collisions=3, reason="on the plate")
    folder = write_episode(tmp_path, episode)
    read = read_episode(folder)
    for name in ARRAYS:
        wrote, got = getattr(episode, name), getattr(read, name)
        if wrote is None:
            assert got is None
            continue
        assert got.dtype == wrote.dtype
        np.testing.assert_array_equal(got, wrote, err_msg=name)
    assert read.policy_versions == episode.policy_versions
    assert read.joint_names == episode.joint_names
    np.testing.assert_array_equal(read.camera.intrinsics, episode.camera.intrinsics)
    np.testing.assert_array_equal(read.camera.base_from_camera, episode.camera.base_from_camera)
    ignored = {"files": {}, "steps": 0}
    assert dataclasses.replace(read.manifest, **ignored) == dataclasses.replace(episode.manifest, **ignored)
    assert read.manifest.steps == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [episode.manifest.episode_id]


def test_shipped_definitions_equal_those_of_the_message_package() -> None:
    shipped = Path(messages.__file__).parent / "msg"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in MESSAGES.glob("*.msg")}
    for path in MESSAGES.glob("*.msg"):
        assert (shipped / path.name).read_text() == path.read_text(), f"copy {path.name} to {shipped}"


def test_states_between_images_are_interpolated(tmp_path: Path) -> None:
    """A robot's states do not come at the images' stamps: half-way in time is half-way in value."""
    episode = make_episode(steps=2)
    half = 10_000_000

    def shift(stream: Stream) -> Stream:
        shifted: Stream = []
        for key, message, stamp in stream:
            if key in ("joint_states", "end_effector_pose"):
                for offset in (-half, half):
                    shifted.append((key, _moved(key, message, stamp + offset, offset / half), stamp + offset))
            else:
                shifted.append((key, message, stamp))
        return shifted

    def _moved(key: str, message: Any, stamp: int, sign: float) -> Any:
        index = int(np.searchsorted(episode.stamps_ns, stamp - int(sign * half)))
        if key == "joint_states":
            return messages.joint_state(
                episode.joint_names, episode.joint_positions[index] + 0.01 * sign, stamp
            )
        quaternion = episode.end_effector_quaternions[index] * sign  # q and -q are one rotation
        return messages.pose(episode.end_effector_positions[index] + 0.02 * sign, quaternion, stamp, "base")

    read = read_episode(record(tmp_path, episode, shift))
    np.testing.assert_allclose(read.joint_positions, episode.joint_positions, atol=1e-12)
    np.testing.assert_allclose(read.end_effector_positions, episode.end_effector_positions, atol=1e-12)
    alignment = np.abs(np.sum(read.end_effector_quaternions * episode.end_effector_quaternions, axis=1))
    np.testing.assert_allclose(alignment, 1.0, atol=1e-12)


def test_late_action_of_the_episode_before_is_left_out(tmp_path: Path) -> None:
    episode = make_episode(steps=3)

    def stray(stream: Stream) -> Stream:
        other = dataclasses.replace(episode, manifest=make_manifest(episode_id="the-one-before"))
        return [next(item for item in episode_messages(other) if item[0] == "action"), *stream]

    read = read_episode(record(tmp_path, episode, stray))
    np.testing.assert_array_equal(read.actions, episode.actions)


def drop(key: str, index: int | None = None) -> Callable[[Stream], Stream]:
    def edit(stream: Stream) -> Stream:
        matching = [item for item in stream if item[0] == key]
        dropped = matching if index is None else [matching[index]]
        return [item for item in stream if not any(item is gone for gone in dropped)]

    return edit


def change(key: str, **fields: Any) -> Callable[[Stream], Stream]:
    def edit(stream: Stream) -> Stream:
        for name, message, _ in stream:
            if name == key:
                for field, value in fields.items():
                    setattr(message, field, value)
        return stream

    return edit


def with_a_chunk(stream: Stream) -> Stream:
    """Add a chunk of two actions from the first action's image."""
    first = next(message for key, message, _ in stream if key == "action")
    chunk = messages.typestore().types["grape_msgs/msg/ActionChunk"](
        header=first.header,
        observation_stamp=first.observation_stamp,
        episode_id=first.episode_id,
        first_step=0,
        period=0.1,
        actions=np.zeros(14),
        token_ids=np.zeros(14, np.uint32),
        log_probabilities=np.zeros(14, np.float32),
        policy_version=first.policy_version,
        inference_seconds=0.0,
    )
    return [*stream, ("action_chunk", chunk, messages.stamp_ns(first.header.stamp))]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (with_a_chunk, "driven by action chunks"),
        (drop("color_image", 1), "image that step 1 was computed from"),
        (drop("color_image", -1), "No image was recorded after the last action"),
        (drop("color_image"), "was not recorded"),
        (drop("action", 1), "not the steps 0 to"),
        (drop("action"), "has no actions"),
        (drop("joint_states"), "No joint state was recorded"),
        (drop("end_effector_pose"), "No end-effector pose was recorded"),
        (drop("camera_info"), "No camera info was recorded"),
        (drop("depth_image", 1), "no depth image within"),
        (change("action", action=np.full(7, np.nan)), "actions holds a number that is not finite"),
        (change("action", log_probabilities=np.full(7, np.inf, np.float32)), "log_probabilities holds"),
        (change("action", log_probabilities=np.ones(7, np.float32)), "log-probability is above zero"),
        (change("action", token_ids=np.arange(6, dtype=np.uint32)), "has 6 tokens and 7 log-probabilities"),
        (change("joint_states", position=np.full(7, np.nan)), "joint_positions holds a number"),
        (change("color_image", encoding="bgr8"), "neither rgb8 nor 16UC1"),
        (change("color_image", height=10**9), "is not 1000000000 rows"),
        (change("camera_info", k=np.zeros(9)), "no focal length"),
        (change("camera_info", width=640), "expected uint8"),
    ],
)
def test_streams_that_do_not_fit_together_are_refused(
    tmp_path: Path, edit: Callable[[Stream], Stream], complaint: str
) -> None:
    folder = record(tmp_path, make_episode(steps=3), edit)
    with pytest.raises(EpisodeError, match=complaint) as refusal:
        read_episode(folder)
    assert refusal.value.where.startswith(str(folder))
    assert refusal.value.remedy


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_a_flipped_byte_or_a_cut_file_is_refused(tmp_path: Path, place: float) -> None:
    folder = write_episode(tmp_path, make_episode(steps=2))
    (path,) = folder.glob("*.mcap")
    whole = path.read_bytes()
    at = int(len(whole) * place)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(EpisodeError, match="differs from its sha256"):
        read_episode(folder)
    path.write_bytes(whole[:at])
    with pytest.raises(EpisodeError, match="differs from its sha256"):
        read_episode(folder)
    path.unlink()
    with pytest.raises(EpisodeError, match="Cannot read the recording"):
        read_episode(folder)


def test_garbage_with_a_matching_hash_is_refused(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, make_episode(steps=2))
    (path,) = folder.glob("*.mcap")
    path.write_bytes(path.read_bytes()[:-500])
    from grape_episodes.bag import sha256

    text = json.loads((folder / "episode.json").read_text())
    text["files"] = {path.name: sha256(path)}
    (folder / "episode.json").write_text(json.dumps(text))
    with pytest.raises(EpisodeError, match="not a readable MCAP file"):
        read_episode(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": "many"}, "steps"),
        ({"outcome": "splendid"}, "outcome"),
        ({"temperature": -1.0}, "temperature"),
        ({"episode_id": "../../etc"}, "episode_id"),
        ({"contract_version": 99}, "Update this software"),
        ({"files": {"../outside.mcap": "0"}}, "files"),
        ({"files": {}}, "names 0 MCAP files"),
        ({"steps": 9}, "not the steps 0 to 8"),
    ],
)
def test_damaged_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    folder = write_episode(tmp_path, make_episode(steps=2))
    path = folder / "episode.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(EpisodeError, match=complaint):
        read_episode(folder)


def test_manifest_that_is_absent_or_no_json_is_refused(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, make_episode(steps=2))
    (folder / "episode.json").write_text("{")
    with pytest.raises(EpisodeError, match="manifest is damaged"):
        read_manifest(folder)
    shutil.rmtree(folder)
    with pytest.raises(EpisodeError, match="Cannot read the episode's manifest"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("actions", np.zeros((3, 6)), r"actions is float64 \(3, 6\), expected float64 \(3, 7\)"),
        ("actions", np.full((3, 7), np.nan), "actions holds a number that is not finite"),
        ("images", np.zeros((3, 240, 320, 3), np.uint8), "images is uint8"),
        ("images", np.zeros((4, 240, 320, 3), np.float32), "images is float32"),
        ("stamps_ns", np.array([1, 2, 2, 3], np.int64), "stamps do not increase"),
        ("token_ids", np.full((3, 7), -1, np.int64), "token id is negative"),
        ("policy_versions", ("one",), "1 policy versions for 3 actions"),
    ],
)
def test_writer_refuses_arrays_that_do_not_fit(
    tmp_path: Path, field: str, value: Any, complaint: str
) -> None:
    episode = dataclasses.replace(make_episode(steps=3), **{field: value})
    with pytest.raises(EpisodeError, match=complaint):
        write_episode(tmp_path, episode)
    assert not list(tmp_path.iterdir()), "a refused episode leaves nothing behind"


def test_an_episode_is_never_overwritten(tmp_path: Path) -> None:
    episode = make_episode(steps=1)
    write_episode(tmp_path, episode)
    with pytest.raises(EpisodeError, match="exists already"):
        write_episode(tmp_path, episode)
    other = make_manifest(episode_id="open")
    EpisodeWriter(tmp_path, other)
    with pytest.raises(EpisodeError, match="unfinished recording is in the way"):
        EpisodeWriter(tmp_path, other)
    with pytest.raises(EpisodeError, match="cut off"):
        read_episode(tmp_path / "open.part")


def test_episode_ids_sort_by_time_and_differ() -> None:
    ids = [new_episode_id("stack_cube/eval/0001") for _ in range(50)]
    assert len(set(ids)) == 50
    assert [name[:21] for name in ids] == sorted(name[:21] for name in ids)
