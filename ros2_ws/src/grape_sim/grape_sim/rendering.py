"""Colour, depth and object masks from the scene's camera (EGL, no shadows, reflections or anti-aliasing)."""

from __future__ import annotations

import importlib
import os

import mujoco
import numpy as np
from grape_episodes import contract
from mujoco.rendering.classic import gl_context

from grape_sim.scene import CAMERA
from grape_sim.suite import load_suite

# Values of the mask image.
BACKGROUND_ID, ARM_ID, FINGERS_ID = 0, 1, 2
_IN_DOMAIN = load_suite("in_domain").objects
OBJECT_IDS: dict[str, int] = {name: 3 + index for index, name in enumerate(_IN_DOMAIN)}
_FLAGS_OFF = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
)
_MAX_DEPTH_MM = 65535


class CameraRenderer:
    """Renders the contract's camera of one model; close it when done.

    ``scale``: images so many times as wide and high, of the same view.
    """

    def __init__(self, model: mujoco.MjModel, scale: int = 1) -> None:
        camera = contract.scaled_camera(scale)
        buffer = model.vis.global_  # only what is read back from it counts for an image
        buffer.offwidth, buffer.offheight = (
            max(buffer.offwidth, camera.width),
            max(buffer.offheight, camera.height),
        )
        _choose_backend()
        try:
            self._renderer = mujoco.Renderer(model, camera.height, camera.width)
        except Exception as error:
            raise RuntimeError(
                f"MuJoCo cannot open an off-screen OpenGL context (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): "
                f"{error}. "
                "Install EGL with: sudo apt-get install libegl1 libgl1-mesa-dri"
            ) from error
        self._mask_ids = _geom_mask_ids(model)

    def colour(self, data: mujoco.MjData) -> np.ndarray:
        """Return RGB (H, W, 3) uint8."""
        self._update(data)
        return self._renderer.render()

    def depth(self, data: mujoco.MjData) -> np.ndarray:
        """Return the distance along the optical axis in mm, (H, W) uint16; 0 where nothing was hit."""
        self._renderer.enable_depth_rendering()
        try:
            self._update(data)
            millimetres = np.rint(self._renderer.render() * 1000.0)
        finally:
            self._renderer.disable_depth_rendering()
        return np.where(millimetres < _MAX_DEPTH_MM, millimetres, 0).astype(np.uint16)

    def masks(self, data: mujoco.MjData) -> np.ndarray:
        """Return (H, W) uint8 with the id of what each pixel shows: see ``OBJECT_IDS`` (others: 0)."""
        self._renderer.enable_segmentation_rendering()
        try:
            self._update(data)
            geom_ids = self._renderer.render()[:, :, 0]
        finally:
            self._renderer.disable_segmentation_rendering()
        return self._mask_ids[geom_ids]

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def _update(self, data: mujoco.MjData) -> None:
        self._renderer.update_scene(data, camera=CAMERA)
        for flag in _FLAGS_OFF:
            self._renderer.scene.flags[flag] = False


def _choose_backend() -> None:
    """Let MuJoCo choose its OpenGL backend again if it was imported before this package set ``MUJOCO_GL``."""
    if os.environ.get("MUJOCO_GL", "").lower().strip() != gl_context._MUJOCO_GL:
        importlib.reload(gl_context)


def _geom_mask_ids(model: mujoco.MjModel) -> np.ndarray:
    """Map geom id to mask id; index -1 (no geom) falls on the last entry, which is the background."""
    ids = np.zeros(model.ngeom + 1, dtype=np.uint8)
    for geom in range(model.ngeom):
        body = model.body(model.geom_bodyid[geom]).name
        if body in OBJECT_IDS:
            ids[geom] = OBJECT_IDS[body]
        elif body.startswith("wx250s/"):
            ids[geom] = FINGERS_ID if "finger_link" in body else ARM_ID
    return ids
