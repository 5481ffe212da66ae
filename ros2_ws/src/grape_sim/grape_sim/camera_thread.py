"""Rendering in a thread of its own, so that physics keeps its rate while an image is drawn.

The colour image is handed over first, because the policy waits for it, and depth is drawn a moment later: on
two cores, drawing would hold up the transport of the colour image to everybody who wants it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from grape_sim.rendering import CameraRenderer

START_SECONDS = 20.0
HEAD_START = 0.012  # s between handing over the colour image and drawing depth


@dataclass(frozen=True)
class Frame:
    """Colour (H, W, 3) uint8 or depth (H, W) uint16 mm, of the state at ``stamp_ns``, for topic ``key``."""

    key: str
    pixels: np.ndarray
    stamp_ns: int


class _View:
    """A renderer with data of its own; opened, used and closed in the camera's thread."""

    def __init__(self, model: mujoco.MjModel, scale: int) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._renderer = CameraRenderer(model, scale)
        for _ in self.draw(self._data.qpos.copy(), 0):  # the first image compiles the shaders
            pass

    def draw(self, positions: np.ndarray, stamp_ns: int) -> Iterator[Frame]:
        """Yield the colour image, then the depth image."""
        self._data.qpos[:] = positions
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        yield Frame("color_image", self._renderer.colour(self._data), stamp_ns)
        time.sleep(HEAD_START)
        yield Frame("depth_image", self._renderer.depth(self._data), stamp_ns)

    def close(self) -> None:
        self._renderer.close()


class CameraThread:
    """Renders the newest requested state and hands its frames to ``deliver`` (called in this thread).

    The OpenGL context lives in the thread that opened it, so opening, rendering and closing all happen here.
    """

    def __init__(self, model: mujoco.MjModel, deliver: Callable[[Frame], None], scale: int = 1) -> None:
        """Start the thread and wait until it can render images ``scale`` times the contract's size.

        Raises:
            RuntimeError: there is no off-screen OpenGL; the message says what to install.
        """
        self._model, self._deliver, self._scale = model, deliver, scale
        self._changed = threading.Condition()
        self._request: tuple[mujoco.MjModel, np.ndarray, int] | None = None
        self._generation, self._stopping, self._started = 0, False, False
        self.skipped = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._started or self._error is not None, START_SECONDS)
        self.check()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did.

        Raises:
            RuntimeError: rendering failed.
        """
        if self._error is not None:
            raise RuntimeError(f"the simulated camera failed: {self._error}") from self._error

    def request(self, positions: np.ndarray, stamp_ns: int) -> None:
        """Ask for an image of the joint positions ``qpos``; an older request still waiting is skipped."""
        with self._changed:
            self.skipped += self._request is not None
            self._request = (self._model, positions, stamp_ns)
            self._changed.notify()

    def show(self, model: mujoco.MjModel) -> None:
        """Take the requests from now on as states of ``model``; the scene has changed."""
        self._model = model

    def discard(self) -> None:
        """Drop what is requested or being drawn: it shows a scene that is gone."""
        with self._changed:
            self._request = None
            self._generation += 1

    def close(self) -> None:
        """End the thread and free the OpenGL context."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        views: dict[mujoco.MjModel, _View] = {}
        try:
            views[self._model] = _View(self._model, self._scale)
            self._announce()
            while (request := self._next()) is not None:
                model, positions, stamp_ns, generation = request
                if model not in views:
                    views[model] = _View(model, self._scale)
                for frame in views[model].draw(positions, stamp_ns):
                    if generation == self._generation:
                        self._deliver(frame)
        except Exception as error:
            self._fail(error)
        finally:
            for view in views.values():
                view.close()

    def _next(self) -> tuple[mujoco.MjModel, np.ndarray, int, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._request is not None or self._stopping)
            if self._stopping or self._request is None:
                return None
            request, self._request = self._request, None
            return (*request, self._generation)

    def _announce(self) -> None:
        with self._changed:
            self._started = True
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
