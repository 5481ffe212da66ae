"""How far the arm's links are from each other, the table and the keep-out boxes, on its collision hulls.

Distances are MuJoCo's between convex hulls (the thresholds follow MoveIt Servo's: 10 mm to itself, 20 mm to
the scene). Pairs whose bounding spheres (or sphere and box) are apart are skipped, so a check takes a few
tens of microseconds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from .description import FloatArray, RobotDescription
from .models import arm_spec
from .safety import Reason

_BASE, _SHOULDER = 1, 2  # bodies of every model: the base link and the first that turns stand on the table
TABLE_HALF_SIZE = (1.0, 1.0, 0.05)  # m, its top is z = 0


@dataclass(frozen=True)
class Violation:
    """Two things nearer to each other than allowed: who, how far (m, negative inside), and the reason."""

    reason: Reason
    first: str
    second: str
    distance: float

    def __str__(self) -> str:
        return f"{self.first} would be {self.distance * 1e3:.0f} mm from {self.second}"


@dataclass(frozen=True)
class _Pairs:
    """Geometry ids (n,) of the pairs that are watched, their least distance (n,) in m and reasons."""

    first: np.ndarray
    second: np.ndarray
    least: FloatArray
    reasons: tuple[Reason, ...]


class ArmClearance:
    """Checks joint positions; holds scratch memory, so each thread needs its own."""

    def __init__(self, description: RobotDescription) -> None:
        boxes = tuple((box.name, *box.lower, *box.upper) for box in description.keep_out)
        self._model = _model(description.model, description.joints, boxes)
        self._data = mujoco.MjData(self._model)
        self._joints = np.array([self._model.joint(name).qposadr[0] for name in description.joints])
        fingers = description.gripper.fingers
        self._fingers = np.array([self._model.joint(name).qposadr[0] for name in fingers])
        self._finger_signs = np.array(list(fingers.values()), dtype=np.float64)
        self._pairs = _watched(self._model, description)
        first, second = self._pairs.first, self._pairs.second
        fixed = (self._model.geom_bodyid == 0)[:, None]  # table and keep-out boxes: parallel to the axes
        half = np.where(fixed, self._model.geom_size, 0.0)
        radius = np.where(fixed[:, 0], 0.0, self._model.geom_rbound)
        self._half = half[first] + half[second]
        self._reach_squared = np.maximum(radius[first] + radius[second] + self._pairs.least, 0.0) ** 2
        # Views of MuJoCo's memory: asking for them anew costs as much as the kinematics.
        self._qpos, self._centres = self._data.qpos, self._data.geom_xpos
        self._nearest = np.zeros(6)

    def check(self, joints: FloatArray, gripper_m: float) -> Violation | None:
        """Return the first pair that is too near at ``joints`` (n,) rad and ``gripper_m`` (m of a finger)."""
        self._qpos[self._joints] = joints
        self._qpos[self._fingers] = gripper_m * self._finger_signs
        mujoco.mj_kinematics(self._model, self._data)
        pairs = self._pairs
        apart = self._centres[pairs.first] - self._centres[pairs.second]
        gap = np.maximum(np.abs(apart) - self._half, 0.0)
        near = np.einsum("ij,ij->i", gap, gap) < self._reach_squared
        for index in near.nonzero()[0].tolist():
            violation = self._measure(index)
            if violation is not None:
                return violation
        return None

    def _measure(self, index: int) -> Violation | None:
        pairs, model = self._pairs, self._model
        first, second, least = int(pairs.first[index]), int(pairs.second[index]), float(pairs.least[index])
        limit = least + 1e-3  # no need to know how far the far ones are
        distance = mujoco.mj_geomDistance(model, self._data, first, second, limit, self._nearest)
        if distance >= least:
            return None
        low, high = sorted((first, second), key=lambda geom: int(model.geom_bodyid[geom]))
        return Violation(pairs.reasons[index], _name(model, high), _name(model, low), float(distance))


@cache
def _model(
    name: str,
    joints: tuple[str, ...],
    boxes: tuple[tuple[str, float, float, float, float, float, float], ...],
) -> mujoco.MjModel:
    """Return the arm with its hulls, a table and the keep-out boxes; read only, shared by all checks."""
    spec = arm_spec(name, joints)
    for geom in list(spec.geoms):
        if not geom.contype:  # a finger's visual mesh: its box is what collides
            spec.delete(geom)
    x, y, z = TABLE_HALF_SIZE
    spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=[x, y, z], pos=[0.0, 0.0, -z])
    for name, *corners in boxes:
        low, high = np.array(corners[:3]), np.array(corners[3:])
        box = mujoco.mjtGeom.mjGEOM_BOX
        spec.worldbody.add_geom(
            name=f"keep-out {name}", type=box, size=(high - low) / 2, pos=(high + low) / 2
        )
    return spec.compile()


def _watched(model: mujoco.MjModel, description: RobotDescription) -> _Pairs:
    limits = description.clearance
    fingers = {int(model.joint(name).bodyid[0]) for name in description.gripper.fingers}
    rows: list[tuple[int, int, float, Reason]] = []
    for first, second in itertools.combinations(range(model.ngeom), 2):
        names = {_name(model, first), _name(model, second)}
        links = {int(model.geom_bodyid[first]), int(model.geom_bodyid[second])}
        keep_out = any(name.startswith("keep-out") for name in names)
        if len(links) == 1 or (keep_out and _BASE in links):
            continue  # one body, or a box around the base, which cannot get out of it
        if keep_out:
            rows.append((first, second, 0.0, Reason.KEEP_OUT))
        elif "table" in names:
            if not links & {_BASE, _SHOULDER}:
                above = limits.fingers if links & fingers else limits.table
                rows.append((first, second, above, Reason.TABLE_CLEARANCE))
        elif not _neighbours(model, first, second):
            rows.append((first, second, limits.links, Reason.SELF_CLEARANCE))
    ids, least = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    return _Pairs(ids[:, 0], ids[:, 1], least, tuple(row[3] for row in rows))


def _neighbours(model: mujoco.MjModel, first: int, second: int) -> bool:
    """Whether the two links touch at rest: joined by a joint, or excluded from contact in the model."""
    a, b = sorted((int(model.geom_bodyid[first]), int(model.geom_bodyid[second])))
    return (a << 16) + b in model.exclude_signature or model.body_parentid[b] == a


def _name(model: mujoco.MjModel, geom: int) -> str:
    body = int(model.geom_bodyid[geom])
    name = model.body(body).name.rpartition("/")[2]
    return name if body else model.geom(geom).name
