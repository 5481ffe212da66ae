"""Reads an episode folder into arrays, and refuses one that is damaged or does not fit together."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from scipy.spatial.transform import Rotation

from grape_episodes import contract, messages
from grape_episodes.bag import sha256
from grape_episodes.manifest import PART_SUFFIX, read_manifest
from grape_episodes.types import Episode, EpisodeError, EpisodeManifest
from grape_episodes.validation import TOKENS, check_episode

MAX_STATE_GAP_SECONDS = 0.25  # as long as the arm itself trusts its joint states
MAX_DEPTH_GAP_SECONDS = 0.05
_DAMAGED = "Delete the folder, or restore it from a copy."
_LEAVE_OUT = "Leave this episode out of the data."


@dataclass
class _Recording:
    """Serialised messages by contract key; images also by header stamp (ns)."""

    messages: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    images: dict[int, bytes] = field(default_factory=dict)
    depths: dict[int, bytes] = field(default_factory=dict)


def read_episode(folder: Path) -> Episode:
    """Return the whole episode in ``folder``.

    Every action is paired with the very image whose stamp it names; the final image is the last one recorded.
    Joint positions and poses are interpolated linearly to the image stamps.

    Raises:
        EpisodeError: The folder is unfinished or damaged, a stream is missing, or arrays do not fit together.
    """
    folder = Path(folder)
    if folder.name.endswith(PART_SUFFIX):
        remedy = "Recover it with grape_episodes.recovery.recover."
        raise EpisodeError("The recording of this episode was cut off", folder, remedy)
    manifest = read_manifest(folder)
    recording = _load(_mcap_path(folder, manifest))
    try:
        episode = _assemble(manifest, recording, folder)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, OverflowError) as error:
        what = f"A recorded message cannot be decoded: {error}"
        raise EpisodeError(what, folder, _DAMAGED) from error
    check_episode(episode, folder)
    return episode


def _mcap_path(folder: Path, manifest: EpisodeManifest) -> Path:
    """Return the one MCAP file after comparing it with its recorded sha256."""
    names = [name for name in manifest.files if name.endswith(".mcap")]
    if len(names) != 1:
        raise EpisodeError(f"The manifest names {len(names)} MCAP files, expected 1", folder, _DAMAGED)
    path = folder / names[0]
    try:
        digest = sha256(path)
    except OSError as error:
        raise EpisodeError(f"Cannot read the recording: {error.strerror}", path, _DAMAGED) from error
    if digest != manifest.files[names[0]]:
        what = "The recording differs from its sha256 in the manifest: changed or cut after writing"
        raise EpisodeError(what, path, _DAMAGED)
    return path


def _load(path: Path) -> _Recording:
    keys = {topic.name: key for key, topic in contract.topics().items() if topic.recorded}
    recording = _Recording()
    try:
        with path.open("rb") as stream:
            reader = make_reader(stream, validate_crcs=False)  # the sha256 was compared already
            for _, channel, message in reader.iter_messages(topics=list(keys), log_time_order=False):
                key = keys[channel.topic]
                if key == "color_image":
                    recording.images[messages.header_stamp_ns(message.data)] = message.data
                elif key == "depth_image":
                    recording.depths[messages.header_stamp_ns(message.data)] = message.data
                else:
                    recording.messages[key].append(message.data)
    except Exception as error:  # whatever a parser raises on foreign bytes, it is the same refusal
        raise EpisodeError(f"The recording is not a readable MCAP file: {error}", path, _DAMAGED) from error
    return recording


def _decode(recording: _Recording, key: str) -> list[Any]:
    type_name = contract.topics()[key].type
    return [messages.deserialize(data, type_name) for data in recording.messages[key]]


def _assemble(manifest: EpisodeManifest, recording: _Recording, folder: Path) -> Episode:
    actions = _actions(manifest, recording, folder)
    if manifest.outcome == "aborted":
        _drop_images_without_depth(recording)
        actions = _with_later_image(actions, recording)
    stamps = _image_stamps(actions, recording, folder)
    names, joints = _joints(recording, stamps, folder)
    positions, quaternions = _poses(recording, stamps, folder)
    return Episode(
        manifest=dataclasses.replace(manifest, steps=len(actions)),
        images=np.stack([_pixels(recording.images[int(stamp)]) for stamp in stamps]),
        depths=_depths(recording, stamps, folder),
        stamps_ns=stamps,
        actions=np.array([action.action for action in actions], dtype=np.float64),
        token_ids=np.array([action.token_ids for action in actions], dtype=np.int64),
        log_probabilities=np.array([action.log_probabilities for action in actions], dtype=np.float32),
        policy_versions=tuple(str(action.policy_version) for action in actions),
        joint_names=names,
        joint_positions=joints,
        end_effector_positions=positions,
        end_effector_quaternions=quaternions,
        camera=_camera(manifest, recording, folder),
    )


def _actions(manifest: EpisodeManifest, recording: _Recording, folder: Path) -> list[Any]:
    """Return this episode's actions in order; a late one of the episode before is left out."""
    if any(chunk.episode_id == manifest.episode_id for chunk in _decode(recording, "action_chunk")):
        what = "This episode was driven by action chunks: several actions from one image"
        raise EpisodeError(what, folder, "Scores and training read episodes of single actions only.")
    everything = _decode(recording, "action")
    actions = [message for message in everything if message.episode_id == manifest.episode_id]
    if [action.step for action in actions] != list(range(manifest.steps)):
        what = f"The recorded actions are not the steps 0 to {manifest.steps - 1} of the manifest, one each"
        raise EpisodeError(what, folder, _LEAVE_OUT)
    for action in actions:
        counts = len(action.token_ids), len(action.log_probabilities)
        if counts != (TOKENS, TOKENS):
            found = f"{counts[0]} tokens and {counts[1]} log-probabilities"
            what = f"Step {action.step} has {found}, expected {TOKENS}"
            raise EpisodeError(what, folder, _LEAVE_OUT)
    return actions


def _drop_images_without_depth(recording: _Recording) -> None:
    """Forget the images after the last depth image: a recording cut off may end between the two."""
    if recording.depths:
        last = max(recording.depths) + MAX_DEPTH_GAP_SECONDS * messages.NANO
        recording.images = {stamp: data for stamp, data in recording.images.items() if stamp <= last}


def _with_later_image(actions: list[Any], recording: _Recording) -> list[Any]:
    """Return the actions whose effect was seen: a recording cut off may end with one that was not."""
    final = max(recording.images, default=0)
    return [action for action in actions if messages.stamp_ns(action.observation_stamp) < final]


def _image_stamps(actions: list[Any], recording: _Recording, folder: Path) -> np.ndarray:
    """Return (T+1,) the stamps of the images the actions name, then of the last image."""
    if not actions:
        raise EpisodeError("The episode has no actions", folder, _LEAVE_OUT)
    stamps = [messages.stamp_ns(action.observation_stamp) for action in actions]
    for action, stamp in zip(actions, stamps, strict=True):
        if stamp not in recording.images:
            what = f"The image that step {action.step} was computed from (stamp {stamp}) was not recorded"
            raise EpisodeError(what, folder, _LEAVE_OUT)
    final = max(recording.images)
    if final <= stamps[-1]:
        raise EpisodeError("No image was recorded after the last action", folder, _LEAVE_OUT)
    return np.array([*stamps, final], dtype=np.int64)


def _pixels(data: bytes) -> np.ndarray:
    return messages.image_array(messages.deserialize(data, "sensor_msgs/msg/Image"))


def _depths(recording: _Recording, stamps: np.ndarray, folder: Path) -> np.ndarray | None:
    """Return (T+1, H, W) the depth images nearest in time to the colour images; None without any."""
    if not recording.depths:
        return None
    available = np.array(sorted(recording.depths), dtype=np.int64)
    nearest = available[_nearest(available, stamps)]
    _check_gap(nearest - stamps, MAX_DEPTH_GAP_SECONDS, "depth image", folder)
    return np.stack([_pixels(recording.depths[int(stamp)]) for stamp in nearest])


def _joints(recording: _Recording, stamps: np.ndarray, folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the joint names (J,) and positions (T+1, J) at the stamps."""
    states = _decode(recording, "joint_states")
    times = _state_times(states, stamps, "joint state", folder)
    names = tuple(str(name) for name in states[0].name)
    if any(tuple(state.name) != names for state in states):
        raise EpisodeError("The joint names change within the episode", folder, _LEAVE_OUT)
    return names, _interpolate(times, np.stack([state.position for state in states]), stamps)


def _poses(recording: _Recording, stamps: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return end-effector positions (T+1, 3) and unit quaternions xyzw (T+1, 4) at the stamps."""
    poses = _decode(recording, "end_effector_pose")
    times = _state_times(poses, stamps, "end-effector pose", folder)
    points = [(p.pose.position.x, p.pose.position.y, p.pose.position.z) for p in poses]
    turns = [
        (p.pose.orientation.x, p.pose.orientation.y, p.pose.orientation.z, p.pose.orientation.w)
        for p in poses
    ]
    positions = _interpolate(times, np.array(points, dtype=np.float64), stamps)
    return positions, _interpolate_turns(times, np.array(turns, dtype=np.float64), stamps)


def _state_times(states: list[Any], stamps: np.ndarray, name: str, folder: Path) -> np.ndarray:
    """Return the header stamps (ns) of a state stream, checked to be in order and to cover the images."""
    if not states:
        raise EpisodeError(
            f"No {name} was recorded", folder, "Check that its publisher runs, then record again."
        )
    times = np.array([messages.stamp_ns(state.header.stamp) for state in states], dtype=np.int64)
    if (np.diff(times) <= 0).any():
        raise EpisodeError(f"The stamps of the {name}s do not increase", folder, _LEAVE_OUT)
    _check_gap(times[_nearest(times, stamps)] - stamps, MAX_STATE_GAP_SECONDS, name, folder)
    return times


def _nearest(times: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return for each stamp the index of the nearest of the sorted times."""
    right = np.clip(np.searchsorted(times, stamps), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    return np.where(stamps - times[left] <= times[right] - stamps, left, right)


def _check_gap(gaps_ns: np.ndarray, limit_seconds: float, name: str, folder: Path) -> None:
    worst = float(np.abs(gaps_ns).max()) / messages.NANO
    if worst > limit_seconds:
        what = f"An image has no {name} within {limit_seconds} s (nearest: {worst:.3f} s)"
        raise EpisodeError(what, folder, _LEAVE_OUT)


def _interpolate(times: np.ndarray, values: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return values (N, D) at times (N,) interpolated to the stamps (M,); exact where a stamp is a time."""
    origin = times[0]  # nanoseconds since the epoch do not fit a float64
    seconds, wanted = (times - origin).astype(np.float64), (stamps - origin).astype(np.float64)
    return np.stack([np.interp(wanted, seconds, column) for column in values.T], axis=1)


def _interpolate_turns(times: np.ndarray, turns: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return unit quaternions (N, 4) at times (N,) interpolated to stamps (M,); exact where recorded."""
    right = np.clip(np.searchsorted(times, stamps), 0, len(times) - 1)
    left = np.maximum(right - 1, 0)
    span = np.maximum(times[right] - times[left], 1)
    weight = np.clip((times[right] - stamps) / span, 0.0, 1.0)[:, None]  # of the left one
    side = np.where(np.sum(turns[left] * turns[right], axis=1, keepdims=True) < 0, -1.0, 1.0)
    mixed = (1.0 - weight) * turns[right] + weight * side * turns[left]  # q and -q are one rotation
    return np.where(weight == 0.0, turns[right], mixed / np.linalg.norm(mixed, axis=1, keepdims=True))


def _camera(manifest: EpisodeManifest, recording: _Recording, folder: Path) -> contract.Camera:
    """Return the camera of the last recorded CameraInfo at the manifest's extrinsics."""
    information = _decode(recording, "camera_info")
    if not information:
        remedy = "Check that the camera driver publishes its calibration, then record again."
        raise EpisodeError("No camera info was recorded", folder, remedy)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(manifest.extrinsics.quaternion_xyzw).as_matrix()
    pose[:3, 3] = manifest.extrinsics.translation
    last = information[-1]
    intrinsics = np.array(last.k, dtype=np.float64).reshape(3, 3)
    if not (np.isfinite(intrinsics).all() and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        raise EpisodeError("The recorded camera info has no focal length", folder, _LEAVE_OUT)
    return contract.Camera(int(last.width), int(last.height), intrinsics, pose)
