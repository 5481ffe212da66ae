"""One cell's scene in one environment: model, data, renderer, and how an initial state is put into it."""

from __future__ import annotations

import copy
from dataclasses import replace

import mujoco
import numpy as np
from grape_episodes import contract
from grape_policy.arm.description import RobotDescription
from grape_policy.arm.model import END_EFFECTOR_SITE
from scipy.spatial.transform import Rotation

from grape_sim.contacts import ContactReader
from grape_sim.expert import Obstacle
from grape_sim.initial_state import InitialState, Look
from grape_sim.rendering import CameraRenderer
from grape_sim.scene import (
    CAMERA,
    LIGHT,
    OPTICAL_TO_MUJOCO,
    TABLE,
    cell_model,
    parking_position,
    table_material,
)
from grape_sim.suite_types import Cell


class Stage:
    """The scene of a cell. Its model is shared between environments unless the cell varies its look.

    camera: the pinhole camera as it stands now; only a cell that nudges it differs from the contract's.
    """

    def __init__(self, cell: Cell, robot: RobotDescription) -> None:
        shared = cell_model(cell)
        self.model = shared if cell.visual is None else copy.copy(shared)
        self.data = mujoco.MjData(self.model)
        # Views of MuJoCo's memory, which are asked for every few milliseconds of simulated time.
        self.positions, self.control = self.data.qpos, self.data.ctrl
        self.end_effector = self.data.site(END_EFFECTOR_SITE)
        self.reader = ContactReader(self.model, tuple(shape.name for shape in cell.shapes))
        self.joints = np.array([self.model.joint(name).qposadr[0] for name in robot.joints])
        self.fingers = np.array([self.model.joint(f"{side}_finger").qposadr[0] for side in ("left", "right")])
        self._shapes = {shape.name: shape for shape in cell.shapes}
        self._plain, self._cell = shared, cell
        self.camera = contract.camera()
        self._addresses = {name: int(self.model.joint(name).qposadr[0]) for name in self._shapes}
        self._start = self._empty_scene(robot)
        self._renderer: CameraRenderer | None = None

    @property
    def renderer(self) -> CameraRenderer:
        """The renderer of this model, opened when it is first needed."""
        if self._renderer is None:
            self._renderer = CameraRenderer(self.model)
        return self._renderer

    def put(self, state: InitialState) -> None:
        """Put arm and objects where the initial state says, at rest."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self._start
        for placement in state.placements:
            address = self._addresses[placement.name]
            x, y, z, w = placement.quaternion
            self.data.qpos[address : address + 7] = [*placement.position, w, x, y, z]
        if state.look is not None:
            self._show(state.look)

    def obstacles(self, names: tuple[str, ...]) -> tuple[Obstacle, ...]:
        """Return where the named objects are now, as the expert sees them."""
        found = []
        for name in names:
            x, y, _ = self.data.body(name).xpos
            found.append(Obstacle(float(x), float(y), self._shapes[name].radius, self._shapes[name].top))
        return tuple(found)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _empty_scene(self, robot: RobotDescription) -> np.ndarray:
        """Return ``qpos`` with the arm at home, the gripper open and every object parked."""
        qpos = self.data.qpos.copy()
        qpos[self.joints] = robot.home
        qpos[self.fingers] = [robot.gripper.open, -robot.gripper.open]
        for index, shape in enumerate(self._cell.shapes):
            address = self._addresses[shape.name]
            qpos[address : address + 7] = [*parking_position(index, shape), 1.0, 0.0, 0.0, 0.0]
        return np.asarray(qpos)

    def _show(self, look: Look) -> None:
        """Give this environment's own model the look of one initial state."""
        model, plain = self.model, self._plain
        table = model.geom(TABLE).id
        if look.table is None:
            model.geom_matid[table], model.geom_rgba[table] = -1, plain.geom_rgba[table]
        else:
            model.geom_matid[table] = model.material(table_material(look.table)).id
            model.geom_rgba[table] = np.ones(4)
        model.vis.headlight.ambient[:] = (
            plain.vis.headlight.ambient if look.ambient is None else [look.ambient] * 3
        )
        model.light_diffuse[LIGHT] = plain.light_diffuse[LIGHT] if look.diffuse is None else look.diffuse
        model.light_dir[LIGHT] = Rotation.from_rotvec(look.light_turn).apply(plain.light_dir[LIGHT])
        if any((*look.camera_shift, *look.camera_turn)):
            self._nudge_camera(look)

    def _nudge_camera(self, look: Look) -> None:
        model, plain = self.model, self._plain
        camera = model.camera(CAMERA).id
        straight = Rotation.from_quat(plain.cam_quat[camera][[1, 2, 3, 0]])
        turned = Rotation.from_rotvec(look.camera_turn) * straight
        model.cam_pos[camera] = plain.cam_pos[camera] + look.camera_shift
        model.cam_quat[camera] = turned.as_quat()[[3, 0, 1, 2]]
        pose = np.eye(4)
        pose[:3, :3] = turned.as_matrix() @ OPTICAL_TO_MUJOCO
        pose[:3, 3] = model.cam_pos[camera]
        self.camera = replace(contract.camera(), base_from_camera=pose)
