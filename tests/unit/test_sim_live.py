"""What the simulation node is made of, without ROS: outside control of the scene and the camera thread."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from grape_policy.arm.controller import CartesianController, JointTarget
from grape_policy.arm.description import load_description
from grape_sim import camera_thread
from grape_sim.camera_thread import CameraThread, Frame
from grape_sim.environment import TICK_SECONDS, SimEnvironment
from grape_sim.scene import shared_model

STATE = "stack_cube/train/0001"
ROBOT = load_description()
ACTIONS = [
    [0.02, 0.01, -0.02, 0, 0, 0.05, 1.0],
    [0.0, -0.02, -0.02, 0, 0, 0, 0.0],
    [0.01, 0, 0.03, 0, 0, 0, 0.0],
]


def test_a_controller_outside_moves_the_arm_exactly_as_the_environment_does() -> None:
    """The graph's path (controller -> joint target -> advance) is the environment's path, bit for bit."""
    inside, outside = SimEnvironment(), SimEnvironment()
    inside.reset_scene(STATE)
    outside.reset_scene(STATE)
    np.testing.assert_array_equal(inside.positions(), outside.positions())
    controller, now = CartesianController(ROBOT, interpolation_seconds=0.1), 0.0
    controller.tick(-TICK_SECONDS)
    for action in ACTIONS:
        inside.step(np.array(action))
        controller.command(action, now)
        for _ in range(10):
            outside.advance(controller.tick(now))
            now = round(now / TICK_SECONDS + 1) * TICK_SECONDS
    np.testing.assert_array_equal(inside.positions(), outside.positions())
    assert inside.judge() == outside.judge()
    inside.close()


def test_measurements_follow_the_target() -> None:
    environment = SimEnvironment()
    environment.reset_scene(STATE)
    joints = ROBOT.home + np.array([0.1, 0, 0, 0, 0, 0])
    for _ in range(40):
        environment.advance(JointTarget(joints, 0.02))
    measured = environment.measure()
    np.testing.assert_allclose(measured.joint_positions[:6], joints, atol=3e-3)
    assert measured.joint_positions[6] == pytest.approx(0.02, abs=1e-3)


class Inbox:
    """Collects frames; ``gate`` holds the camera thread in its delivery."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.gate, self.busy = threading.Event(), threading.Event()
        self.gate.set()

    def put(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.busy.set()
        self.gate.wait(10)

    def wait(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.frames) < count:
            assert time.monotonic() < end, f"{len(self.frames)} of {count} frames"
            time.sleep(0.005)


def test_camera_thread_draws_the_newest_state_and_skips_older_requests() -> None:
    environment, inbox = SimEnvironment(depth=True), Inbox()
    expected = environment.reset(STATE)
    camera = CameraThread(shared_model(), inbox.put)
    inbox.gate.clear()
    camera.request(environment.positions(), 1)
    assert inbox.busy.wait(10)
    camera.request(environment.positions(), 2)
    camera.request(environment.positions(), 3)
    inbox.gate.set()
    inbox.wait(4)
    camera.close()
    environment.close()
    assert [frame.stamp_ns for frame in inbox.frames] == [1, 1, 3, 3]
    assert [frame.key for frame in inbox.frames] == ["color_image", "depth_image"] * 2
    assert camera.skipped == 1
    np.testing.assert_array_equal(inbox.frames[0].pixels, expected.image)
    np.testing.assert_array_equal(inbox.frames[1].pixels, expected.depth)


def test_a_larger_image_shows_the_same_view() -> None:
    environment, inbox = SimEnvironment(depth=True), Inbox()
    expected = environment.reset(STATE)
    camera = CameraThread(shared_model(), inbox.put, scale=2)
    camera.request(environment.positions(), 1)
    inbox.wait(2)
    camera.close()
    environment.close()
    large, depth = (frame.pixels for frame in inbox.frames)
    assert (large.shape, depth.shape) == ((480, 640, 3), (480, 640))
    averaged = large.reshape(240, 2, 320, 2, 3).mean(axis=(1, 3))
    assert np.abs(averaged - expected.image).mean() < 3.0


def test_discarded_requests_are_not_delivered() -> None:
    environment, inbox = SimEnvironment(), Inbox()
    environment.reset_scene(STATE)
    camera = CameraThread(shared_model(), inbox.put)
    inbox.gate.clear()
    camera.request(environment.positions(), 1)
    assert inbox.busy.wait(10)
    camera.request(environment.positions(), 2)
    camera.discard()
    camera.request(environment.positions(), 3)
    inbox.gate.set()
    inbox.wait(3)
    camera.close()
    assert [frame.stamp_ns for frame in inbox.frames] == [1, 3, 3]


def test_a_missing_renderer_is_reported_where_the_camera_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: object, scale: int) -> None:
        raise RuntimeError("Install EGL with: sudo apt-get install libegl1 libgl1-mesa-dri")

    monkeypatch.setattr(camera_thread, "CameraRenderer", broken)
    with pytest.raises(RuntimeError, match="apt-get install"):
        CameraThread(shared_model(), lambda frame: None)
