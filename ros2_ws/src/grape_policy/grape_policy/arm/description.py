"""What the controller must know of one arm: joints, limits, home, gripper, workspace; read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SHIPPED = ("wx250s", "panda", "fr3", "wxai")
BRAKING_SECONDS = 0.105  # from full speed, docs/safety.md promises 0.1 s


class DescriptionError(ValueError):
    """A robot description is missing or wrong; the message says where and what to do."""


@dataclass(frozen=True)
class StepLimits:
    """Bounds of one action in m and rad: shortened beyond the first two, refused beyond ``refuse_*``."""

    translation: float
    rotation: float
    refuse_translation: float
    refuse_rotation: float


@dataclass(frozen=True)
class Gripper:
    """One finger's travel (m), its speed limit (m/s) and the force (N) beyond which it closes no further.

    ``joint`` is the name in joint states; ``fingers`` gives for each finger joint of the model its way per
    metre of that opening, 1 or -1.
    """

    joint: str
    closed: float
    open: float
    velocity: float
    force: float
    fingers: Mapping[str, float]

    def metres(self, fraction: float) -> float:
        """Return the finger position (m) of an opening ``fraction``, 0 closed .. 1 open."""
        return self.closed + fraction * (self.open - self.closed)

    def fraction(self, metres: float) -> float:
        """Return the opening fraction, 0 closed .. 1 open, of a finger position (m)."""
        return (metres - self.closed) / (self.open - self.closed)


@dataclass(frozen=True)
class Box:
    """A named box in the base frame, from corner ``lower`` (3,) to corner ``upper`` (3,), m."""

    name: str
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True)
class SpeedLimits:
    """Bounds on the commanded end effector: m/s and rad/s, for any stream of actions."""

    linear: float
    angular: float


@dataclass(frozen=True)
class ClearanceLimits:
    """Least distances (m): link to link, link to table, finger to table (below 0: may touch by that much)."""

    links: float
    table: float
    fingers: float


@dataclass(frozen=True)
class RobotDescription:
    """One arm. Arrays have one number per joint (rad, rad/s, rad/s²) or axis of the base frame (m).

    ``model`` names its kinematics and collision shapes (``models.py``); ``topics`` are the robot's own, by
    the contract's key, where they are not the contract's.
    """

    name: str
    model: str
    joints: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    home: FloatArray
    gripper: Gripper
    workspace_lower: FloatArray
    workspace_upper: FloatArray
    step: StepLimits
    speed: SpeedLimits
    clearance: ClearanceLimits
    base_frame: str
    end_effector_frame: str
    keep_out: tuple[Box, ...] = ()
    topics: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "velocity", "acceleration", "home"):
            self._require(getattr(self, name).shape == (len(self.joints),), f"{name}: one number per joint")
        self._require(bool(np.all(self.lower < self.upper)), "limits: lower must be below upper")
        self._require(bool(np.all(self.velocity > 0) and np.all(self.acceleration > 0)), "limits must be > 0")
        braking = self.velocity / self.acceleration <= BRAKING_SECONDS
        self._require(bool(np.all(braking)), f"limits: every joint must stop within {BRAKING_SECONDS} s")
        inside = np.all(self.home >= self.lower) and np.all(self.home <= self.upper)
        self._require(bool(inside), "home: outside the joint limits")
        self._require(bool(np.all(self.workspace_lower < self.workspace_upper)), "workspace: lower < upper")
        self._require(self.gripper.closed < self.gripper.open, "gripper: closed must be below open")
        self._require(self.gripper.force > 0, "gripper: force must be > 0")
        self._require(self.speed.linear > 0 and self.speed.angular > 0, "speed: limits must be > 0")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise DescriptionError(f"{self.name}.yaml: {what}; correct the robot description")

    @property
    def joint_state_names(self) -> tuple[str, ...]:
        """The arm joints followed by the gripper joint, the order of every joint state and command."""
        return (*self.joints, self.gripper.joint)


def _array(values: list[float]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def parse_boxes(data: list[dict[str, Any]]) -> tuple[Box, ...]:
    """Build keep-out boxes from a list of ``{name, lower: [x, y, z], upper: [x, y, z]}`` (m, base frame).

    Raises:
        DescriptionError: a box without a name, or whose corners are not three finite ordered numbers.
    """
    boxes: list[Box] = []
    for entry in data:
        try:
            box = Box(str(entry["name"]), _array(entry["lower"]), _array(entry["upper"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DescriptionError(f"keep_out: {entry!r} needs name, lower and upper ({error!r})") from error
        corners = np.array([box.lower, box.upper]) if box.lower.shape == box.upper.shape == (3,) else None
        if corners is None or not np.all(np.isfinite(corners)) or not np.all(box.lower < box.upper):
            raise DescriptionError(f"keep_out: {box.name}: three finite numbers each, lower below upper")
        if box.name in {other.name for other in boxes}:
            raise DescriptionError(f"keep_out: two boxes are called {box.name}; rename one")
        boxes.append(box)
    return tuple(boxes)


def load_boxes(path: Path) -> tuple[Box, ...]:
    """Return the keep-out boxes of a YAML file with the key ``keep_out``.

    Raises:
        DescriptionError: no such file, no such key, or a wrong box.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DescriptionError(f"cannot read keep-out boxes from {path}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("keep_out"), list):
        raise DescriptionError(f"{path}: needs `keep_out:` with a list of boxes")
    return parse_boxes(data["keep_out"])


def parse_description(data: dict[str, Any]) -> RobotDescription:
    """Build the description from the YAML file's content.

    Raises:
        DescriptionError: a field is missing or inconsistent.
    """
    try:
        limits, workspace, frames = data["limits"], data["workspace"], data["frames"]
        return RobotDescription(
            name=data["name"],
            model=data["model"],
            joints=tuple(data["joints"]),
            lower=_array(limits["lower"]),
            upper=_array(limits["upper"]),
            velocity=_array(limits["velocity"]),
            acceleration=_array(limits["acceleration"]),
            home=_array(data["home"]),
            gripper=Gripper(**data["gripper"]),
            workspace_lower=_array(workspace["lower"]),
            workspace_upper=_array(workspace["upper"]),
            step=StepLimits(**data["step"]),
            speed=SpeedLimits(**data["speed"]),
            clearance=ClearanceLimits(**data["clearance"]),
            keep_out=parse_boxes(data["keep_out"]),
            topics=data.get("topics", {}),
            base_frame=frames["base"],
            end_effector_frame=frames["end_effector"],
        )
    except (KeyError, TypeError) as error:
        raise DescriptionError(
            f"robot description: missing or unknown field {error}; see wx250s.yaml"
        ) from error


@cache
def load_description(name: str = "wx250s") -> RobotDescription:
    """Return the shipped description ``name``, or that in the file ``name`` when it ends in ``.yaml``.

    Raises:
        DescriptionError: there is no such description, or it is wrong.
    """
    own = name.endswith(".yaml")
    path = Path(name).expanduser() if own else files("grape_policy.arm").joinpath(f"{name}.yaml")
    if not own and name not in SHIPPED:
        raise DescriptionError(f"no robot description {name!r}; known: {', '.join(SHIPPED)}, or a .yaml file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DescriptionError(f"cannot read the robot description {name}: {error}") from error
    if not isinstance(data, dict):
        raise DescriptionError(f"robot description {name}: not a YAML mapping; see wx250s.yaml")
    return parse_description(data)
