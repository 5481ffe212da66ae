"""Properties of the arm's motion for any stream of actions, ticks and stops."""

from __future__ import annotations

import math

import numpy as np
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import load_description
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotated, rotation_between
from grape_policy.arm.limiter import JointLimiter
from grape_policy.arm.safety import ActionRefused
from hypothesis import given, settings
from hypothesis import strategies as st

ROBOT = load_description()
KINEMATICS = ArmKinematics(ROBOT)
CONTROLLER = CartesianController(ROBOT)
DOWN = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
ROUNDING = 1e-9
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


@settings(max_examples=60, deadline=None)
@given(events=events, pauses=pauses)
def test_velocity_acceleration_and_joints_stay_bounded(events: list, pauses: list[float]) -> None:
    controller, now = CartesianController(ROBOT), 0.0
    before, speed = controller.tick(now).joints, np.zeros(6)
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
                assert np.all(np.abs(velocity) <= ROBOT.velocity * (1 + ROUNDING) + 1e-6)
                assert np.all(np.abs(velocity - speed) <= ROBOT.acceleration * seconds + 1e-6)
                speed = velocity
            assert np.all(joints >= ROBOT.lower - ROUNDING)
            assert np.all(joints <= ROBOT.upper + ROUNDING)
            before = joints


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


@settings(max_examples=60, deadline=None)
@given(action=st.lists(anything, min_size=0, max_size=9))
def test_any_list_is_followed_or_refused(action: list[float]) -> None:
    controller = CONTROLLER
    before = controller.target_pose
    try:
        controller.command(action, 0.0)
    except ActionRefused:
        assert controller.target_pose is before
    assert np.all(np.isfinite(controller.target_pose.position))
    assert np.all(controller.target_pose.position >= ROBOT.workspace_lower - ROUNDING)
    assert np.all(controller.target_pose.position <= ROBOT.workspace_upper + ROUNDING)
