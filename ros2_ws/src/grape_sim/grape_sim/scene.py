"""The scene: arm, table, the objects of a suite's cell and the contract's camera in one MuJoCo model.

Objects that an initial state does not use are parked behind the arm, out of view, so that all states of a
cell run on the same model. All in-domain cells have the same objects, therefore the same model.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import mujoco
import numpy as np
from grape_episodes import contract
from grape_policy.arm.model import arm_spec

from grape_sim.objects import ObjectShape, Part
from grape_sim.suite import Cell, load_suite
from grape_sim.suite_types import SuiteError, Texture
from grape_sim.textures import picture

CAMERA = "camera_color"
TABLE = "table"
LIGHT = 0  # index of the only light in the model
_TABLE_TEXTURE_SIDE = 0.5  # m of table that one picture covers
_GEOMS = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
}
_UNSEEN_COLOUR = (0.5, 0.5, 0.5)
_PARKING_ROWS = (-0.9, -0.65, -0.4, -1.15)  # x of rows of four places, m
OPTICAL_TO_MUJOCO = np.diag(
    [1.0, -1.0, -1.0]
)  # REP-103 optical (z forward, y down) -> MuJoCo (-z forward, y up)


def build_spec(
    shapes: Iterable[ObjectShape] | None = None, textures: Iterable[Texture] = ()
) -> mujoco.MjSpec:
    """Return the spec of the scene with ``shapes`` (default: in-domain), rendered at its fastest quality."""
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
    for texture in textures:
        _add_texture(spec, texture)
    for index, shape in enumerate(_in_domain().shapes if shapes is None else shapes):
        body = spec.worldbody.add_body(name=shape.name, pos=parking_position(index, shape))
        body.add_freejoint(name=shape.name)
        for part in shape.parts:
            _add_part(body, part, shape.friction)
    _add_camera(spec)
    return spec


def shared_model() -> mujoco.MjModel:
    """Return the compiled in-domain scene; it is never changed after compilation, so it can be shared."""
    return cell_model(_in_domain())


def cell_model(cell: Cell) -> mujoco.MjModel:
    """Return the compiled scene of a cell, one for all cells with the same objects; copy it to change it."""
    return _compiled(cell.shapes, cell.textures)


def table_material(texture: str) -> str:
    """Return the name of the material that puts ``texture`` on the table."""
    return f"table_{texture}"


def parking_position(index: int, shape: ObjectShape) -> list[float]:
    """Return where the unused object number ``index`` rests: on the table behind the arm, out of view."""
    return [_PARKING_ROWS[index // 4], -0.45 + 0.3 * (index % 4), shape.rest_height]


def _in_domain() -> Cell:
    return next(iter(load_suite("in_domain").cells.values()))


@cache
def _compiled(shapes: tuple[ObjectShape, ...], textures: tuple[Texture, ...]) -> mujoco.MjModel:
    try:
        return build_spec(shapes, textures).compile()
    except ValueError as error:
        names = ", ".join(shape.name for shape in shapes)
        what = f"{names} cannot be compiled ({' '.join(str(error).split())})"
        raise SuiteError("objects", what, "Correct the object's parts") from error


def _add_texture(spec: mujoco.MjSpec, texture: Texture) -> None:
    """Add a picture as a flat texture with a material for the table, and as a cube texture for objects."""
    image = picture(texture)
    height, width, _ = image.shape
    kinds = {"table": mujoco.mjtTexture.mjTEXTURE_2D, "object": mujoco.mjtTexture.mjTEXTURE_CUBE}
    for prefix, kind in kinds.items():
        name = f"{prefix}_{texture.name}"
        spec.add_texture(
            name=name, type=kind, width=width, height=height, nchannel=3, data=image.ravel().tolist()
        )
        material = spec.add_material(name=name, rgba=[1.0] * 4, specular=0.0, shininess=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        if prefix == "table":
            material.texuniform, material.texrepeat = True, [1.0 / _TABLE_TEXTURE_SIDE] * 2


def _add_part(body: mujoco.MjsBody, part: Part, friction: float) -> None:
    """Add a primitive: seen only, without weight and contact; or solid, and seen if it has a colour."""
    geom = body.add_geom(
        type=_GEOMS[part.kind],
        size=[*part.size, 0.0, 0.0][:3],
        pos=part.position,
        quat=part.quaternion,
        rgba=[*(part.colour or _UNSEEN_COLOUR), 1.0],
    )
    if part.texture is not None:
        geom.material = f"object_{part.texture}"
    if part.mass is None:
        geom.contype = geom.conaffinity = 0
        geom.group, geom.mass = 1, 0
        return
    geom.group, geom.mass = 1 if part.colour else 3, part.mass
    geom.friction, geom.condim, geom.solref = [friction, 0.02, 0.001], 4, [0.008, 1.0]


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
    rotation = camera.base_from_camera[:3, :3] @ OPTICAL_TO_MUJOCO
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
