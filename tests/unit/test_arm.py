"""Arm description, kinematics, controller, limiter and safety state, without ROS."""

from __future__ import annotations

import time

import mujoco
import numpy as np
import pytest
import yaml
from grape_policy.arm import model as arm_model
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import DescriptionError, load_description, parse_description
from grape_policy.arm.drivers import JointMeasurement, MockDriver
from grape_policy.arm.kinematics import ArmKinematics, Pose, rotated, rotation_between
from grape_policy.arm.limiter import JointLimiter
from grape_policy.arm.loop import ArmLoop, Timeouts
from grape_policy.arm.safety import ActionRefused, Reason, SafetySupervisor, State
from scipy.spatial.transform import Rotation

ROBOT = load_description()
DOWN = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])  # x of the end effector points to -z of the base
TICK = 0.02
STAY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def moved(delta: list[float], gripper: float = 1.0) -> np.ndarray:
    return np.array([*delta, 0.0, 0.0, 0.0, gripper])


def run(controller: CartesianController, start: float, ticks: int) -> float:
    """Tick from ``start`` and return the time of the next tick."""
    for index in range(ticks):
        controller.tick(start + index * TICK)
    return start + ticks * TICK


@pytest.fixture(scope="module")
def kinematics() -> ArmKinematics:
    return ArmKinematics(ROBOT)


@pytest.fixture
def controller() -> CartesianController:
    return CartesianController(ROBOT)


# --- description


def test_limits_lie_inside_those_of_the_vendor() -> None:
    model = arm_model.arm_spec().compile()
    for index, name in enumerate(ROBOT.joints):
        low, high = model.joint(name).range
        assert low - 1e-6 <= ROBOT.lower[index] < ROBOT.upper[index] <= high + 1e-6
    assert ROBOT.joints == arm_model.ARM_JOINTS
    gripper = (ROBOT.gripper.closed, ROBOT.gripper.open)
    assert gripper == (arm_model.GRIPPER_CLOSED, arm_model.GRIPPER_OPEN)


def test_home_points_straight_down_over_the_workspace(kinematics: ArmKinematics) -> None:
    pose = kinematics.forward(ROBOT.home)
    np.testing.assert_allclose(pose.position, [0.28, 0.0, 0.18], atol=1e-5)
    assert np.linalg.norm(rotation_between(pose.quaternion, DOWN)) < 1e-4


def test_gripper_converts_both_ways() -> None:
    assert ROBOT.gripper.metres(0.0) == ROBOT.gripper.closed
    assert ROBOT.gripper.metres(1.0) == pytest.approx(ROBOT.gripper.open)
    assert ROBOT.gripper.fraction(ROBOT.gripper.metres(0.3)) == pytest.approx(0.3)


def test_a_wrong_description_names_the_field() -> None:
    from importlib.resources import files

    data = yaml.safe_load(files("grape_policy.arm").joinpath("wx250s.yaml").read_text())
    with pytest.raises(DescriptionError, match="home"):
        parse_description({**data, "home": [9.0] * 6})
    with pytest.raises(DescriptionError, match="velocity"):
        parse_description({**data, "limits": {**data["limits"], "velocity": [1.0]}})
    with pytest.raises(DescriptionError, match="gripper"):
        parse_description({k: v for k, v in data.items() if k != "gripper"})
    with pytest.raises(DescriptionError, match="known: wx250s"):
        load_description("r2d2")


# --- kinematics


def test_forward_equals_the_full_model(kinematics: ArmKinematics) -> None:
    model = arm_model.arm_spec().compile()
    data = mujoco.MjData(model)
    for joints in np.random.default_rng(0).uniform(ROBOT.lower, ROBOT.upper, (20, 6)):
        data.qpos[[model.joint(name).qposadr[0] for name in ROBOT.joints]] = joints
        mujoco.mj_kinematics(model, data)
        position, quaternion = arm_model.site_pose(data.site(arm_model.END_EFFECTOR_SITE))
        pose = kinematics.forward(joints)
        np.testing.assert_allclose(pose.position, position, atol=1e-12)
        np.testing.assert_allclose(pose.quaternion, quaternion, atol=1e-9)


@pytest.mark.parametrize("height", [0.018, 0.06, 0.11, 0.16])
def test_reaches_the_table_straight_down(kinematics: ArmKinematics, height: float) -> None:
    for x in np.linspace(0.20, 0.42, 6):
        for y in np.linspace(-0.20, 0.20, 7):
            if np.hypot(x, y) > 0.44:  # stretched out: the wrist can no longer point down
                continue
            result = kinematics.inverse(Pose(np.array([x, y, height]), DOWN), ROBOT.home)
            assert result.converged, (x, y, height, result)


def test_unreachable_poses_are_reported_not_raised(kinematics: ArmKinematics) -> None:
    result = kinematics.inverse(Pose(np.array([0.9, 0.0, 0.2]), DOWN), ROBOT.home)
    assert not result.converged
    assert result.position_error > 0.1
    assert np.all(result.joints >= ROBOT.lower)
    assert np.all(result.joints <= ROBOT.upper)


def test_a_tracking_solve_is_quick(kinematics: ArmKinematics) -> None:
    """The control loop's solves start 2 mm from the goal; the median is robust to a busy machine."""
    start = kinematics.forward(ROBOT.home)
    seconds = []
    for angle in np.linspace(0, 2 * np.pi, 300):
        goal = Pose(start.position + 0.002 * np.array([np.cos(angle), np.sin(angle), 0]), start.quaternion)
        begin = time.perf_counter()
        assert kinematics.inverse(goal, ROBOT.home).converged
        seconds.append(time.perf_counter() - begin)
    assert np.median(seconds) < 1e-3


def test_the_end_effector_never_moves_farther_than_said(kinematics: ArmKinematics) -> None:
    rng = np.random.default_rng(1)
    for scale in (0.01, 0.1, 0.5):
        for joints in rng.uniform(ROBOT.lower, ROBOT.upper, (100, 6)):
            turns = rng.normal(0.0, scale, 6) * (rng.random(6) < 0.5)
            start, end = kinematics.forward(joints), kinematics.forward(joints + turns)
            moved, turned = kinematics.farthest(turns)
            assert np.linalg.norm(end.position - start.position) <= moved + 1e-12
            assert np.linalg.norm(rotation_between(start.quaternion, end.quaternion)) <= turned + 1e-9


def test_rotations_compose_in_the_base_frame() -> None:
    turn = np.array([0.0, 0.0, np.pi / 2])
    expected = (Rotation.from_rotvec(turn) * Rotation.from_quat(DOWN)).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(rotated(turn, DOWN)).as_matrix(), expected, atol=1e-12)
    np.testing.assert_allclose(rotation_between(DOWN, rotated(turn, DOWN)), turn, atol=1e-12)


# --- controller


def test_arrives_where_the_action_says(controller: CartesianController, kinematics: ArmKinematics) -> None:
    start = controller.target_pose
    controller.tick(0.0)
    controller.command(np.array([0.02, -0.03, -0.02, 0.0, 0.0, 0.2, 0.0]), 0.0)
    run(controller, TICK, 15)
    reached = kinematics.forward(controller.tick(0.4).joints)
    np.testing.assert_allclose(reached.position - start.position, [0.02, -0.03, -0.02], atol=2e-4)
    turned = rotation_between(start.quaternion, reached.quaternion)
    np.testing.assert_allclose(turned, [0.0, 0.0, 0.2], atol=1e-3)


def test_deltas_add_to_the_target_not_to_the_present_pose(controller: CartesianController) -> None:
    start = controller.target_pose.position
    for index in range(3):
        controller.command(moved([0.01, 0.0, 0.0]), 0.001 * index)  # much faster than the arm can follow
    np.testing.assert_allclose(controller.target_pose.position - start, [0.03, 0.0, 0.0], atol=1e-12)


def test_is_deterministic() -> None:
    actions = np.random.default_rng(3).normal(0, 0.02, (20, 7))
    actions[:, 6] = 1.0
    tracks = []
    for _ in range(2):
        controller, now, track = CartesianController(ROBOT), 0.0, []
        for action in actions:
            controller.command(action, now)
            track += [controller.tick(now + k * TICK).joints for k in range(10)]
            now += 0.2
        tracks.append(np.array(track))
    np.testing.assert_array_equal(tracks[0], tracks[1])


@pytest.mark.parametrize(
    "action",
    [
        [np.nan] * 7,
        [0, 0, np.inf, 0, 0, 0, 1],
        [0] * 6,
        [[0] * 7],
        "forward",
        [1.0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 3.0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 7.0],
        [0, 0, 0, 0, 0, 0, -1.0],
    ],
)
def test_refuses_nonsense_and_keeps_the_target(controller: CartesianController, action: object) -> None:
    before = controller.target_pose
    with pytest.raises(ActionRefused) as refusal:
        controller.command(action, 0.0)  # type: ignore[arg-type]
    assert refusal.value.reason == Reason.INVALID_ACTION
    assert controller.target_pose is before
    run(controller, 0.0, 10)
    np.testing.assert_array_equal(controller.tick(1.0).joints, ROBOT.home)


def test_long_steps_are_shortened_in_their_direction(controller: CartesianController) -> None:
    start = controller.target_pose.position
    controller.command(moved([0.12, 0.0, -0.09]), 0.0)
    step = controller.target_pose.position - start
    assert np.linalg.norm(step) == pytest.approx(ROBOT.step.translation)
    np.testing.assert_allclose(step / np.linalg.norm(step), [0.8, 0.0, -0.6], atol=1e-9)


def test_targets_stay_inside_the_workspace_box(controller: CartesianController) -> None:
    now = 0.0
    for _ in range(12):
        controller.command(moved([0.0, 0.0, -0.05]), now)
        now = run(controller, now, 10)
    assert controller.target_pose.position[2] == pytest.approx(ROBOT.workspace_lower[2])


def test_holds_the_last_reachable_target(controller: CartesianController, kinematics: ArmKinematics) -> None:
    now = 0.0
    for _ in range(14):  # far and high, straight down: out of reach before the box ends
        controller.command(moved([0.03, 0.0, 0.03]), now)
        now = run(controller, now, 10)
    assert controller.unreachable > 0
    held = kinematics.forward(controller.tick(now).joints)
    np.testing.assert_allclose(held.position, controller.target_pose.position, atol=5e-4)


def test_gripper_is_absolute_and_no_faster_than_its_limit(controller: CartesianController) -> None:
    controller.tick(0.0)
    controller.command(moved([0.0, 0.0, 0.0], gripper=0.0), 0.0)
    positions = [controller.tick(TICK * (k + 1)).gripper_m for k in range(20)]
    assert max(-np.diff([ROBOT.gripper.open, *positions])) <= ROBOT.gripper.velocity * TICK + 1e-12
    assert positions[-1] == pytest.approx(ROBOT.gripper.closed)


def test_halting_brakes_smoothly_and_stays(controller: CartesianController) -> None:
    controller.tick(0.0)
    controller.command(moved([0.05, 0.0, 0.0]), 0.0)
    run(controller, TICK, 3)
    before = [controller.tick(4 * TICK).joints, controller.tick(5 * TICK).joints]
    controller.halt()
    track = [*before, *(controller.tick((6 + k) * TICK).joints for k in range(20))]
    acceleration = np.diff(track, n=2, axis=0) / TICK**2
    assert np.all(np.abs(acceleration) <= ROBOT.acceleration * (1 + 1e-6))
    assert controller.still
    np.testing.assert_array_equal(track[-1], track[-2])


def test_a_pause_is_not_caught_up(controller: CartesianController) -> None:
    controller.tick(0.0)
    controller.command(moved([0.05, 0.0, 0.0]), 0.0)
    jump = np.abs(controller.tick(60.0).joints - ROBOT.home)
    assert np.all(jump <= ROBOT.velocity * 0.05)


def test_reset_refuses_what_is_no_pose(controller: CartesianController) -> None:
    with pytest.raises(ActionRefused):
        controller.reset([0.0] * 5, 0.02)
    with pytest.raises(ActionRefused):
        controller.reset([np.nan] * 6, 0.02)


def test_limiter_stops_exactly_on_its_goal() -> None:
    limiter = JointLimiter(np.array([1.0]), np.array([5.0]))
    limiter.reset(np.array([0.0]))
    track = [limiter.step(np.array([0.5]), TICK)[0] for _ in range(100)]
    assert track[-1] == pytest.approx(0.5, abs=1e-9)
    assert max(track) <= 0.5 + 1e-9


# --- safety state and loop


def test_reasons_and_states_equal_the_message() -> None:
    messages = pytest.importorskip("grape_msgs.msg", exc_type=ImportError).SafetyState
    for reason in Reason:
        assert getattr(messages, f"REASON_{reason.name}") == reason
    for state in State:
        assert getattr(messages, state.name) == state


def test_the_first_reason_wins() -> None:
    supervisor = SafetySupervisor()
    supervisor.stop(Reason.INVALID_ACTION, "x")
    assert supervisor.status.reason == Reason.NOT_ARMED_YET
    supervisor.arm()
    supervisor.stop(Reason.INVALID_ACTION, "x")
    supervisor.stop(Reason.STALE_COMMAND, "y")
    assert supervisor.status.reason == Reason.INVALID_ACTION
    supervisor.emergency_stop()
    assert supervisor.arm().state == State.EMERGENCY_STOPPED
    assert supervisor.disarm().state == State.EMERGENCY_STOPPED
    assert supervisor.clear_emergency_stop().state == State.DISARMED


class SilentDriver(MockDriver):
    """A mock arm whose measurements keep the time of the last write, and which can break."""

    broken = False

    def write(self, target, now: float) -> None:  # type: ignore[no-untyped-def]
        if self.broken:
            raise OSError("cable pulled")
        super().write(target, now)


@pytest.fixture
def loop_and_driver() -> tuple[ArmLoop, SilentDriver]:
    driver = SilentDriver(ROBOT)
    loop = ArmLoop(ROBOT, driver, timeouts=Timeouts(overdue=0.8, joint_states=0.25, observation=1.0))
    assert loop.arm(0.0)[0]
    loop.tick(0.0)
    return loop, driver


def test_stale_joint_states_stop(loop_and_driver: tuple[ArmLoop, SilentDriver]) -> None:
    loop, _ = loop_and_driver
    loop.tick(0.2)
    assert loop.status.state == State.ARMED
    loop.tick(0.6)
    assert (loop.status.state, loop.status.reason) == (State.STOPPED, Reason.JOINT_STATES_STALE)


def test_a_failing_driver_stops(loop_and_driver: tuple[ArmLoop, SilentDriver]) -> None:
    loop, driver = loop_and_driver
    driver.broken = True
    loop.tick(0.02)
    assert loop.status.reason == Reason.DRIVER_FAULT
    assert "cable pulled" in loop.status.message


def test_silence_stops_only_after_an_action(loop_and_driver: tuple[ArmLoop, SilentDriver]) -> None:
    loop, _ = loop_and_driver
    for k in range(100):
        loop.tick(k * TICK)
    assert loop.status.state == State.ARMED
    assert loop.act(STAY, 0.1, 2.0) == ""
    for k in range(100, 152):
        loop.tick(k * TICK)
    assert loop.status.reason == Reason.STALE_COMMAND


@pytest.mark.parametrize("age", [1.5, -1.5, np.nan])
def test_actions_from_another_time_are_dropped(
    loop_and_driver: tuple[ArmLoop, SilentDriver], age: float
) -> None:
    loop, _ = loop_and_driver
    assert "old" in loop.act(STAY, age, 0.0)
    assert loop.status.state == State.ARMED


def test_arming_needs_a_fresh_measurement_and_takes_its_pose() -> None:
    class Moved(MockDriver):
        def read(self) -> JointMeasurement:
            return JointMeasurement(ROBOT.home + 0.1, 0.02, 5.0)

    loop = ArmLoop(ROBOT, Moved(ROBOT))
    success, message = loop.arm(9.0)
    assert not success
    assert "joint states" in message
    assert loop.arm(5.1)[0]
    assert loop.arm(5.15)[0]  # again: no harm
