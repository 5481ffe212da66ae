"""Every shipped robot description: its model, home, inverse kinematics and clearance, for 6 and 7 joints."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from grape_policy.arm import models
from grape_policy.arm.clearance import ArmClearance
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import (
    SHIPPED,
    DescriptionError,
    RobotDescription,
    load_description,
    parse_description,
)
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotation_between
from grape_policy.arm.safety import ActionRefused, Reason

TICK = 0.01


@pytest.fixture(scope="module", params=SHIPPED)
def robot(request: pytest.FixtureRequest) -> RobotDescription:
    return load_description(request.param)


def test_limits_lie_inside_those_of_the_model(robot: RobotDescription) -> None:
    model = models.arm_spec(robot.model, robot.joints).compile()
    for index, name in enumerate(robot.joints):
        low, high = model.joint(name).range
        if robot.name != "fr3":  # the model has the Panda's limits
            assert low - 1e-6 <= robot.lower[index] < robot.upper[index] <= high + 1e-6, name
    for name in robot.gripper.fingers:
        assert model.joint(name).type[0] == mujoco.mjtJoint.mjJNT_SLIDE


def test_home_is_in_the_workspace_and_clear(robot: RobotDescription) -> None:
    position = ArmKinematics(robot).forward(robot.home).position
    assert np.all(position >= robot.workspace_lower)
    assert np.all(position <= robot.workspace_upper)
    for gripper_m in (robot.gripper.closed, robot.gripper.open):
        assert ArmClearance(robot).check(robot.home, gripper_m) is None


def test_inverse_returns_to_poses_of_the_arm(robot: RobotDescription) -> None:
    kinematics, rng = ArmKinematics(robot), np.random.default_rng(0)
    for _ in range(20):
        joints = robot.home + rng.uniform(-0.3, 0.3, len(robot.joints))
        goal = kinematics.forward(np.clip(joints, robot.lower, robot.upper))
        result = kinematics.inverse(goal, robot.home)
        assert result.converged
        reached = kinematics.forward(result.joints)
        assert np.linalg.norm(reached.position - goal.position) < 2e-4
        assert np.linalg.norm(rotation_between(reached.quaternion, goal.quaternion)) < 1e-3


def test_follows_actions_in_every_direction(robot: RobotDescription) -> None:
    controller, now = CartesianController(robot), 0.0
    start = controller.target_pose.position
    for delta in np.vstack([np.eye(3), -np.eye(3)]) * 0.02:
        controller.command([*delta, 0.0, 0.0, 0.1, 0.5], now)
        for _ in range(20):
            now += TICK
            joints = controller.tick(now).joints
    assert controller.unreachable == controller.too_near == 0
    np.testing.assert_allclose(controller.pose_of(joints).position, start, atol=1e-3)


def test_arms_near_the_table_or_in_a_box_are_found(robot: RobotDescription) -> None:
    clearance, rng = ArmClearance(robot), np.random.default_rng(1)
    found = [clearance.check(rng.uniform(robot.lower, robot.upper), 0.02) for _ in range(300)]
    reasons = {violation.reason for violation in found if violation}
    assert {Reason.TABLE_CLEARANCE, Reason.KEEP_OUT} <= reasons


@pytest.mark.parametrize(
    ("name", "joints"),
    [
        ("panda", [1.84, -0.29, 1.88, -2.99, -0.77, 0.34, 0.87]),
        ("wxai", [-0.12, 0.61, 0.63, -1.43, 0.25, -0.47]),
    ],
)
def test_an_arm_folded_onto_itself_is_found(name: str, joints: list[float]) -> None:
    violation = ArmClearance(load_description(name)).check(np.array(joints), 0.02)
    assert violation is not None
    assert violation.reason == Reason.SELF_CLEARANCE


def test_the_wrong_number_of_joints_is_refused(robot: RobotDescription) -> None:
    with pytest.raises(ActionRefused, match=f"need {len(robot.joints)} finite joints"):
        CartesianController(robot).reset(robot.home[:-1], 0.02)


def test_a_seventh_joint_comes_back_with_the_pose() -> None:
    robot = load_description("panda")
    kinematics, joints = ArmKinematics(robot), load_description("panda").home
    start = kinematics.forward(joints)
    for angle in np.linspace(0.0, 6.0 * np.pi, 900):
        offset = [0.1 * np.sin(angle), 0.15 * (np.cos(angle) - 1.0), -0.1 * np.sin(2.0 * angle)]
        result = kinematics.inverse(Pose(start.position + offset, start.quaternion), joints)
        assert result.converged
        joints = result.joints
    assert np.abs(joints - robot.home).max() < 0.05


def test_franka_reaches_its_ready_pose() -> None:
    """The vendor's ready pose; position of the hand's tool centre from the DH parameters it publishes."""
    pose = ArmKinematics(load_description("panda")).forward(load_description("panda").home)
    np.testing.assert_allclose(pose.position, [0.3069, 0.0, 0.4869], atol=1e-3)
    np.testing.assert_allclose(np.abs(pose.quaternion), [1.0, 0.0, 0.0, 0.0], atol=1e-3)


def test_the_widowx_ai_may_be_armed_folded_at_rest() -> None:
    assert ArmClearance(load_description("wxai")).check(np.zeros(6), 0.0) is None


def test_a_description_of_your_own_is_a_file(tmp_path: Path) -> None:
    data = yaml.safe_load(files("grape_policy.arm").joinpath("panda.yaml").read_text())
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump({**data, "name": "ours"}))
    assert load_description(str(path)).name == "ours"
    path.write_text("[]")
    load_description.cache_clear()
    with pytest.raises(DescriptionError, match="not a YAML mapping"):
        load_description(str(path))


def test_what_a_description_must_not_say() -> None:
    data = yaml.safe_load(files("grape_policy.arm").joinpath("panda.yaml").read_text())
    fast = {**data["limits"], "velocity": [3.0] * 7}
    with pytest.raises(DescriptionError, match="stop within"):
        parse_description({**data, "limits": fast})
    robot = replace(load_description("panda"), model="r2d2")
    with pytest.raises(DescriptionError, match="not one of wx250s, franka, wxai"):
        ArmKinematics(robot)


def test_a_missing_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(DescriptionError, match="pip install trossen-arm-sim"):
        models.arm_spec("wxai", ("joint_0",))
