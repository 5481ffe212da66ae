"""Messages of an episode to and from bytes (CDR) without ROS, through the ``rosbags`` type store.

The definitions of ``grape_msgs`` are shipped as package data beside this file, so that a training machine
needs neither ROS nor the built interface package; a test keeps them equal to ``grape_msgs/msg``.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grape_episodes.contract import Camera

NANO = 1_000_000_000


@cache
def typestore() -> Typestore:
    """Return the ROS 2 Jazzy types and those of ``grape_msgs``."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(files("grape_episodes").joinpath("msg").iterdir(), key=lambda entry: entry.name):
        if path.name.endswith(".msg"):
            name = f"grape_msgs/msg/{path.name.removesuffix('.msg')}"
            store.register(get_types_from_msg(path.read_text(encoding="utf-8"), name))
    return store


@cache
def definition(type_name: str) -> tuple[str, str]:
    """Return the full text (``ros2msg``) and the REP-2016 type hash of a message type."""
    text, _ = typestore().generate_msgdef(type_name, ros_version=2)
    return text, typestore().hash_rihs01(type_name)


def serialize(message: Any) -> bytes:
    """Return the CDR bytes of a message made by this module."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def deserialize(data: bytes, type_name: str) -> Any:
    """Return the message in CDR bytes; arrays are read-only views of ``data``."""
    return typestore().deserialize_cdr(data, type_name)


def header_stamp_ns(data: bytes) -> int:
    """Return the stamp (ns) of a message that starts with a ``std_msgs/Header``; nothing else is decoded."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * NANO + int(nanoseconds)


def stamp_ns(time: Any) -> int:
    """Return a ``builtin_interfaces/Time`` in nanoseconds."""
    return int(time.sec) * NANO + int(time.nanosec)


def _time(stamp: int) -> Any:
    seconds, nanoseconds = divmod(int(stamp), NANO)
    return typestore().types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)


def _header(stamp: int, frame: str) -> Any:
    return typestore().types["std_msgs/msg/Header"](stamp=_time(stamp), frame_id=frame)


def _image(array: np.ndarray, encoding: str, stamp: int, frame: str) -> Any:
    height, width = array.shape[:2]
    data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return typestore().types["sensor_msgs/msg/Image"](
        header=_header(stamp, frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.size // height,
        data=data,
    )


def color_image(array: np.ndarray, stamp: int, frame: str) -> Any:
    """Return an ``rgb8`` image message of (H, W, 3) uint8 RGB."""
    return _image(array, "rgb8", stamp, frame)


def depth_image(array: np.ndarray, stamp: int, frame: str) -> Any:
    """Return a ``16UC1`` image message of (H, W) uint16 mm."""
    return _image(array.astype("<u2", copy=False), "16UC1", stamp, frame)


def image_array(message: Any) -> np.ndarray:
    """Return the pixels of an ``rgb8`` (H, W, 3) or ``16UC1`` (H, W) image message.

    Raises:
        ValueError: Another encoding, or a size that does not fit the data.
    """
    if message.encoding == "rgb8":
        return _rows(message, 3).reshape(message.height, message.width, 3)
    if message.encoding == "16UC1":
        rows = np.ascontiguousarray(_rows(message, 2))
        return rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16, copy=False)
    raise ValueError(f"image encoding {message.encoding!r} is neither rgb8 nor 16UC1")


def _rows(message: Any, pixel_bytes: int) -> np.ndarray:
    """Return (height, width * pixel_bytes) uint8 without the padding at the end of each row."""
    width = message.width * pixel_bytes
    if message.step < width or message.data.size != message.height * message.step:
        raise ValueError(f"image of {message.data.size} bytes is not {message.height} rows of {message.step}")
    return message.data.reshape(message.height, message.step)[:, :width]


def camera_info(camera: Camera, stamp: int, frame: str) -> Any:
    """Return the CameraInfo of an undistorted pinhole camera."""
    store = typestore().types
    k = camera.intrinsics.astype(np.float64)
    return store["sensor_msgs/msg/CameraInfo"](
        header=_header(stamp, frame),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([k, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=store["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )


def joint_state(names: tuple[str, ...], positions: np.ndarray, stamp: int) -> Any:
    """Return a JointState of positions (J,) in rad (``gripper`` in m)."""
    return typestore().types["sensor_msgs/msg/JointState"](
        header=_header(stamp, ""),
        name=list(names),
        position=np.asarray(positions, dtype=np.float64),
        velocity=np.zeros(0),
        effort=np.zeros(0),
    )


def pose(position: np.ndarray, quaternion: np.ndarray, stamp: int, frame: str) -> Any:
    """Return a PoseStamped of a position (3,) in m and a quaternion (4,) xyzw."""
    store = typestore().types
    x, y, z = (float(value) for value in position)
    qx, qy, qz, qw = (float(value) for value in quaternion)
    return store["geometry_msgs/msg/PoseStamped"](
        header=_header(stamp, frame),
        pose=store["geometry_msgs/msg/Pose"](
            position=store["geometry_msgs/msg/Point"](x=x, y=y, z=z),
            orientation=store["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
        ),
    )


def action_delta(
    *,
    episode_id: str,
    step: int,
    action: np.ndarray,
    token_ids: np.ndarray,
    log_probabilities: np.ndarray,
    policy_version: str,
    stamp: int,
    frame: str,
) -> Any:
    """Return the ActionDelta of one step; ``stamp`` is that of the image it was computed from."""
    return typestore().types["grape_msgs/msg/ActionDelta"](
        header=_header(stamp, frame),
        observation_stamp=_time(stamp),
        episode_id=episode_id,
        step=step,
        action=np.asarray(action, dtype=np.float64),
        token_ids=np.asarray(token_ids, dtype=np.uint32),
        log_probabilities=np.asarray(log_probabilities, dtype=np.float32),
        policy_version=policy_version,
        inference_seconds=0.0,
    )
