"""The contract: every topic, service, action, frame and camera number of the stack, from one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Topic:
    """One topic: its ROS name, type, QoS profile name, nominal rate (0: on change) and unit."""

    name: str
    type: str
    qos: str
    rate_hz: float
    unit: str
    recorded: bool


@dataclass(frozen=True)
class Camera:
    """The fixed RGB-D camera: size (px), pinhole K (3, 3), pose of the optical frame in the base (4, 4)."""

    width: int
    height: int
    intrinsics: np.ndarray
    base_from_camera: np.ndarray


@cache
def document() -> dict[str, Any]:
    """Return the whole contract as plain data."""
    text = files("grape_episodes").joinpath("contract.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@cache
def topics() -> dict[str, Topic]:
    """Return all topics by their short key, e.g. ``color_image``."""
    return {key: Topic(**fields) for key, fields in document()["topics"].items()}


def scaled_camera(scale: int) -> Camera:
    """Return the fixed camera with ``scale`` times as many pixels each way, and the same view."""
    plain = camera()
    intrinsics = plain.intrinsics * scale
    intrinsics[:2, 2] += (scale - 1) / 2  # pixel centres
    intrinsics[2, 2] = 1.0
    return replace(plain, width=scale * plain.width, height=scale * plain.height, intrinsics=intrinsics)


@cache
def step_topics() -> tuple[str, ...]:
    """Return the names of the topics with one message a step: single actions, and those of chunks."""
    return tuple(topics()[key].name for key in ("action", "action_started"))


def service_name(key: str) -> str:
    """Return the ROS name of the service ``key``."""
    return str(document()["services"][key]["name"])


def action_name(key: str) -> str:
    """Return the ROS name of the action ``key``."""
    return str(document()["actions"][key]["name"])


@cache
def camera() -> Camera:
    """Return the fixed camera's size, intrinsics and extrinsics."""
    fields = document()["camera"]
    k = fields["intrinsics"]
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(fields["extrinsics"]["quaternion_xyzw"]).as_matrix()
    pose[:3, 3] = fields["extrinsics"]["translation"]
    matrix = np.array([[k["fx"], 0.0, k["cx"]], [0.0, k["fy"], k["cy"]], [0.0, 0.0, 1.0]])
    return Camera(fields["width"], fields["height"], matrix, pose)
