"""The scene: arm, table, all eight objects and the contract's camera in one MuJoCo model.

Objects that an initial state does not use are parked behind the arm, out of view, so that every task runs on
the same model and a saved state fits any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import mujoco
import numpy as np
from grape_episodes import contract
from grape_policy.arm.model import arm_spec

from grape_sim.objects import OBJECTS

CAMERA = "camera_color"
TABLE = "table"
_OPTICAL_TO_MUJOCO = np.diag(
    [1.0, -1.0, -1.0]
)  # REP-103 optical (z forward, y down) -> MuJoCo (-z forward, y up)


def build_spec() -> mujoco.MjSpec:
    """Return the spec of the whole scene, with rendering set to its fastest plain quality."""
    spec = arm_spec()
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    _set_visuals(spec)
    spec.worldbody.add_geom(
        name=TABLE,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.25, 0.0, -0.02],
        size=[1.6, 1.2, 0.02],
        rgba=[0.50, 0.49, 0.47, 1.0],
        friction=[1.0, 0.02, 0.001],
    )
    for index, (name, shape) in enumerate(OBJECTS.items()):
        body = spec.worldbody.add_body(name=name, pos=parking_position(index))
        body.add_freejoint(name=name)
        shape.build(body)
    _add_camera(spec)
    return spec


@cache
def shared_model() -> mujoco.MjModel:
    """Return the compiled scene; it is never changed after compilation, so it can be shared."""
    return build_spec().compile()


def parking_position(index: int) -> list[float]:
    """Return where the unused object number ``index`` rests: on the table behind the arm, out of view."""
    shape = list(OBJECTS.values())[index]
    return [-0.9 + 0.25 * (index // 4), -0.45 + 0.3 * (index % 4), shape.rest_height]


def _set_visuals(spec: mujoco.MjSpec) -> None:
    camera = contract.camera()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = camera.width, camera.height
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.headlight.ambient = [0.45] * 3
    spec.visual.headlight.diffuse = [0.35] * 3
    spec.visual.headlight.specular = [0.0] * 3
    spec.stat.extent = 1.0  # unit of the clipping planes below
    spec.visual.map.znear, spec.visual.map.zfar = 0.1, 10.0
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0.3, 0.5, 2.0],
        dir=[0.1, -0.35, -1.0],
        diffuse=[0.35] * 3,
        specular=[0.0] * 3,
        castshadow=False,
    )


def _add_camera(spec: mujoco.MjSpec) -> None:
    """Put the contract's pinhole camera into the scene (square pixels, principal point in the middle)."""
    camera = contract.camera()
    fx, fy = camera.intrinsics[0, 0], camera.intrinsics[1, 1]
    centre = ((camera.width - 1) / 2, (camera.height - 1) / 2)
    if fx != fy or not np.allclose(camera.intrinsics[:2, 2], centre):
        raise ValueError(
            "contract camera: MuJoCo renders square pixels around the image centre; "
            f"set fx = fy and cx, cy = {centre} (found {camera.intrinsics.tolist()})"
        )
    rotation = camera.base_from_camera[:3, :3] @ _OPTICAL_TO_MUJOCO
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    spec.worldbody.add_camera(
        name=CAMERA,
        pos=camera.base_from_camera[:3, 3],
        quat=quaternion,
        fovy=float(np.degrees(2 * np.arctan(camera.height / 2 / fy))),
    )


def set_object_pose(
    data: mujoco.MjData, name: str, position: Iterable[float], quaternion: Iterable[float]
) -> None:
    """Place an object: position (3,) m and quaternion xyzw (4,) in the base frame, at rest."""
    joint = data.joint(name)
    x, y, z, w = quaternion
    joint.qpos[:] = [*position, w, x, y, z]
    joint.qvel[:] = 0.0


def object_pose(data: mujoco.MjData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an object's position (3,) m and quaternion xyzw (4,) in the base frame."""
    body = data.body(name)
    return body.xpos.copy(), body.xquat[[1, 2, 3, 0]]
