"""Properties of the arm's motion for any stream of actions, ticks and stops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import SHIPPED, RobotDescription, load_description
from grape_policy.arm.drivers import MockDriver
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotated, rotation_between
from grape_policy.arm.limiter import JointLimiter
from grape_policy.arm.loop import ArmLoop
from grape_policy.arm.safety import ActionRefused
from hypothesis import given, settings
from hypothesis import strategies as st

ROBOT = load_description()
KINEMATICS = ArmKinematics(ROBOT)
CONTROLLERS = {name: CartesianController(load_description(name)) for name in SHIPPED}
DOWN = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
ROUNDING = 1e-9
every_robot = pytest.mark.parametrize("robot", [load_description(name) for name in SHIPPED], ids=SHIPPED)
unit = st.floats(0.0, 1.0)
anything = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-0.3, 0.3)
events = st.lists(
    st.one_of(
        st.lists(anything, min_size=7, max_size=7),
        st.lists(st.floats(-0.05, 0.05), min_size=6, max_size=6).map(lambda v: [*v, 1.0]),
        st.just("halt"),
    ),
    max_size=12,
)
pauses = st.lists(st.floats(0.0, 0.15), min_size=1, max_size=8)


@every_robot
@settings(max_examples=30, deadline=None)
@given(events=events, pauses=pauses)
def test_velocity_acceleration_and_joints_stay_bounded(
    robot: RobotDescription, events: list, pauses: list[float]
) -> None:
    controller, now = CartesianController(robot), 0.0
    before, speed = controller.tick(now).joints, np.zeros(len(robot.joints))
    unseen = 0.0  # s of ticks too short to tell a velocity from rounding; they accelerate too
    for event in [*events, "end"]:
        if event == "halt":
            controller.halt()
        elif event != "end":
            try:
                controller.command(event, now)
            except ActionRefused:
                assert not all(map(math.isfinite, event)) or max(map(abs, event)) > 0.1
        for pause in pauses:
            now += pause
            joints = controller.tick(now).joints
            seconds = min(pause, 0.05)
            if seconds > 1e-6:
                velocity = (joints - before) / seconds
                assert np.all(np.abs(velocity) <= robot.velocity * (1 + ROUNDING) + 1e-6)
                allowed = robot.acceleration * (seconds + unseen) + 1e-6
                assert np.all(np.abs(velocity - speed) <= allowed)
                speed, unseen = velocity, 0.0
            else:
                unseen += seconds
            assert np.all(joints >= robot.lower - ROUNDING)
            assert np.all(joints <= robot.upper + ROUNDING)
            before = joints


row = st.lists(st.floats(-0.08, 0.08), min_size=6, max_size=6).map(lambda v: [*v, 0.5])
periods = st.sampled_from([0.02, 0.05, 0.1, 0.2])

# What may happen between two ticks of a real graph; to the arm a policy swap is just other actions.
stream = st.lists(
    st.one_of(
        st.tuples(st.just("act"), st.lists(st.floats(-0.2, 0.2), min_size=7, max_size=7)),
        st.tuples(st.just("chunk"), st.tuples(st.lists(row, min_size=1, max_size=8), periods)),
        st.tuples(st.just("burst"), st.lists(st.floats(-0.05, 0.05), min_size=7, max_size=7)),
        st.tuples(st.just("nonsense"), st.just([math.nan] * 7)),
        st.tuples(st.sampled_from(["ticks", "pause", "disarm", "arm", "press", "clear", "end"]), st.none()),
    ),
    max_size=25,
)


class Track:
    """An arm loop with a mock arm; remembers every written target and the time since the one before."""

    def __init__(self, robot: RobotDescription) -> None:
        self.now, self.seconds = 0.0, [0.01]
        self.driver = MockDriver(robot)
        self.loop = ArmLoop(robot, self.driver)
        self.joints = [robot.home]
        self.ticks(1)

    def ticks(self, count: int, seconds: float = 0.01) -> None:
        for _ in range(count):
            self.now += seconds
            self.driver._measured = replace(self.driver.read(), time=self.now)  # joint states never stop
            self.loop.tick(self.now)
            self.joints.append(self.driver.read().joints)
            self.seconds.append(min(seconds, 0.05))

    def happen(self, what: str, action: Any) -> None:
        for _ in range(5 if what == "burst" else 1):
            if what == "chunk":
                self.loop.act_chunk(*action, None, 0.1, self.now)
            elif action is not None:
                self.loop.act(action, 0.1, self.now)
        if what == "disarm":
            self.loop.disarm()
        elif what == "arm":
            self.loop.arm(self.now)
        elif what in ("press", "clear"):
            self.loop.emergency_stop(what == "press")
        elif what == "end":
            self.loop.episode_ended()
        self.ticks(*{"ticks": (12, 0.01), "pause": (1, 0.3)}.get(what, (3, 0.01)))


@every_robot
@settings(max_examples=30, deadline=None)
@given(stream=stream)
def test_any_stream_of_actions_stops_and_resumes_moves_smoothly(
    robot: RobotDescription, stream: list
) -> None:
    track = Track(robot)
    assert track.loop.arm(track.now)[0]
    for what, action in stream:
        track.happen(what, action)
        if what in ("clear", "disarm"):  # the first action after resuming is where a jump would be
            track.ticks(12)
            track.loop.arm(track.now)
    track.ticks(30)
    seconds = np.array(track.seconds[1:])[:, None]
    joints = np.array(track.joints)
    velocity = np.diff(joints, axis=0) / seconds
    assert np.all(np.isfinite(joints))
    assert np.all(np.abs(velocity) <= robot.velocity + 1e-6)
    assert np.all(np.abs(np.diff(velocity, axis=0)) <= robot.acceleration * seconds[1:] + 1e-6)
    kinematics = ArmKinematics(robot)
    poses = [kinematics.forward(row) for row in joints]
    positions = np.array([pose.position for pose in poses])
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=1) / seconds[:, 0]
    assert speed.max() <= 1.1 * robot.speed.linear


@settings(max_examples=150, deadline=None)
@given(x=unit, y=unit, z=unit, turn=st.floats(-1.2, 1.2), tilt=st.floats(-0.25, 0.25))
def test_inverse_then_forward_returns_to_the_pose(
    x: float, y: float, z: float, turn: float, tilt: float
) -> None:
    position = np.array([0.20 + 0.20 * x, -0.20 + 0.40 * y, 0.02 + 0.12 * z])
    quaternion = rotated(np.array([0.0, 0.0, turn]), rotated(np.array([tilt, 0.0, 0.0]), DOWN))
    result = KINEMATICS.inverse(Pose(position, quaternion), ROBOT.home)
    reached = KINEMATICS.forward(result.joints)
    assert np.linalg.norm(reached.position - position) <= 1e-3
    assert np.degrees(np.linalg.norm(rotation_between(reached.quaternion, quaternion))) <= 0.5


@settings(max_examples=150, deadline=None)
@given(
    goals=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=20),
    seconds=st.lists(st.floats(1e-4, 0.05), min_size=20, max_size=20),
)
def test_limiter_never_leaves_the_range_of_its_goals(goals: list[float], seconds: list[float]) -> None:
    limiter = JointLimiter(np.array([2.0]), np.array([20.0]))
    limiter.reset(np.array([0.0]))
    for goal in goals:
        for dt in seconds:
            limiter.step(np.array([goal]), dt)
            assert -1.0 - ROUNDING <= limiter.position[0] <= 1.0 + ROUNDING


@every_robot
@settings(max_examples=30, deadline=None)
@given(action=st.lists(anything, min_size=0, max_size=9))
def test_any_list_is_followed_or_refused(robot: RobotDescription, action: list[float]) -> None:
    controller = CONTROLLERS[robot.name]
    before = controller.target_pose
    try:
        controller.command(action, 0.0)
    except ActionRefused:
        assert controller.target_pose is before
    assert np.all(np.isfinite(controller.target_pose.position))
    assert np.all(controller.target_pose.position >= robot.workspace_lower - ROUNDING)
    assert np.all(controller.target_pose.position <= robot.workspace_upper + ROUNDING)
