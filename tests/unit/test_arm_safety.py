"""What stops the arm or keeps it away from things, without ROS: each guard is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grape_policy.arm.clearance import ArmClearance
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import Box, DescriptionError, RobotDescription, load_boxes, load_description
from grape_policy.arm.drivers import JointMeasurement, MockDriver
from grape_policy.arm.kinematics import ArmKinematics
from grape_policy.arm.loop import ArmLoop
from grape_policy.arm.safety import Reason, State
from grape_policy.arm.watchdogs import LAG_SECONDS, Heartbeats, ImageWatch

ROBOT = load_description()
TICK = 0.01
STAY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
FORWARD = np.array([0.04, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
WALL = Box("wall", np.array([0.38, -0.3, 0.0]), np.array([0.6, 0.3, 0.5]))


class LiveDriver(MockDriver):
    """A mock arm that measures at every read, with what a test makes it measure."""

    def __init__(self, description: RobotDescription) -> None:
        super().__init__(description)
        self.now, self.force, self.offset = 0.0, None, np.zeros(len(description.joints))
        self.track: list[np.ndarray] = []

    def write(self, target, now: float) -> None:  # type: ignore[no-untyped-def]
        super().write(target, now)
        self.track.append(target.joints)

    def read(self) -> JointMeasurement:
        measured = super().read()
        return JointMeasurement(measured.joints + self.offset, measured.gripper_m, self.now, self.force)


class Bench:
    """An armed loop, its driver and a clock."""

    def __init__(self, description: RobotDescription = ROBOT, **options: object) -> None:
        self.driver = LiveDriver(description)
        self.loop = ArmLoop(description, self.driver, **options)  # type: ignore[arg-type]
        self.now = 0.0
        assert self.loop.arm(0.0)[0]

    def run(self, seconds: float, each_tick: Callable[[float], None] = lambda now: None) -> None:
        for _ in range(round(seconds / TICK)):
            self.now = self.driver.now = self.now + TICK
            each_tick(self.now)
            self.loop.tick(self.now)

    def stopped_after(self, limit: float, each_tick: Callable[[float], None] = lambda now: None) -> float:
        """Run until the loop is no longer armed and return the seconds that took."""
        start = self.now
        while self.loop.status.state == State.ARMED:
            assert self.now - start < limit, f"not stopped within {limit} s"
            self.run(TICK, each_tick)
        return self.now - start

    def smooth(self) -> bool:
        """Whether no written target broke the acceleration limits."""
        acceleration = np.diff(self.driver.track, n=2, axis=0) / TICK**2
        return bool(np.all(np.abs(acceleration) <= ROBOT.acceleration * (1 + 1e-6)))


# --- clearance


def test_home_is_clear_and_folded_onto_itself_is_not() -> None:
    clearance = ArmClearance(ROBOT)
    assert clearance.check(ROBOT.home, ROBOT.gripper.open) is None
    folded = np.array([0.58, -0.93, -1.54, -1.24, -2.05, 1.43])
    violation = clearance.check(folded, 0.02)
    assert violation is not None
    assert violation.reason == Reason.SELF_CLEARANCE
    assert {violation.first, violation.second} == {"wrist_link", "shoulder_link"}


def test_a_link_near_the_table_is_found() -> None:
    violation = ArmClearance(ROBOT).check(np.array([0.0, 1.5, -0.2, 0.0, 0.0, 0.0]), 0.02)
    assert violation is not None
    assert violation.reason == Reason.TABLE_CLEARANCE
    assert "table" in str(violation)


def test_targets_in_a_keep_out_box_are_not_followed() -> None:
    controller = CartesianController(replace(ROBOT, keep_out=(WALL,)))
    for step in range(10):
        controller.command(FORWARD, 0.2 * step)
        for tick in range(20):
            joints = controller.tick(0.2 * step + tick * TICK).joints
            assert controller.too_near_at(joints, 0.037) is None
    assert controller.too_near > 0
    assert 0.28 < controller.target_pose.position[0] < 0.38


def test_an_arm_that_would_brake_inside_a_keep_out_box_is_stopped() -> None:
    bench = Bench(replace(ROBOT, keep_out=(WALL,)))
    inside = bench.loop._controller._kinematics.forward(ROBOT.home)
    goal = replace(inside, position=inside.position + np.array([0.12, 0.0, 0.0]))
    solution = bench.loop._controller._kinematics.inverse(goal, ROBOT.home)
    bench.loop._controller._goal = solution.joints  # past every check of targets
    bench.stopped_after(1.0)
    assert bench.loop.status.reason == Reason.KEEP_OUT
    assert "wall" in bench.loop.status.message
    bench.run(0.5)
    assert bench.smooth()


def test_arming_inside_a_keep_out_box_is_refused() -> None:
    box = Box("parcel", np.array([0.25, -0.05, 0.1]), np.array([0.35, 0.05, 0.2]))
    description = replace(ROBOT, keep_out=(box,))
    success, message = ArmLoop(description, MockDriver(description)).arm(0.0)
    assert not success
    assert "parcel" in message


def test_keep_out_boxes_are_read_or_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("keep_out: [{name: post, lower: [0.5, 0.5, 0], upper: [0.6, 0.6, 1]}]")
    (box,) = load_boxes(path)
    assert box.name == "post"
    for text in (
        "keep_out: [{name: post, lower: [1, 0, 0], upper: [0, 1, 1]}]",
        "keep_out: [{name: post, lower: [.nan, 0, 0], upper: [1, 1, 1]}]",
        "keep_out: [{name: post}]",
        "keep_out: [{name: post, lower: [0, 0], upper: [1, 1]}]",
        "boxes: []",
        "keep_out: [",
    ):
        path.write_text(text)
        with pytest.raises(DescriptionError, match="keep"):
            load_boxes(path)


# --- watchdogs of the loop


def test_a_silent_policy_stops_within_its_bond_and_a_tenth() -> None:
    bench = Bench(watched=("policy",))
    bench.run(1.0)  # nothing is followed yet: nobody has to beat

    def alive(now: float) -> None:
        bench.loop.beat("policy", now)
        if round(now / TICK) % 20 == 0:
            bench.loop.act(FORWARD if now < 1.5 else STAY, 0.1, now)

    bench.run(2.0, alive)
    assert bench.loop.status.state == State.ARMED
    seconds = bench.stopped_after(1.0, lambda now: None)
    assert bench.loop.status.reason == Reason.HEARTBEAT_LOST
    assert "policy" in bench.loop.status.message
    assert 0.25 <= seconds <= 0.35


def test_another_nodes_heartbeat_does_not_count() -> None:
    beats = Heartbeats(["policy", "camera"], 0.25)
    beats.beat("policy", 1.0)
    beats.beat("recorder", 1.0)
    assert beats.check(0.9, 1.1) is None
    fault = beats.check(0.9, 1.2)
    assert fault is not None
    assert "camera" in fault.message


def follow(bench: Bench, digest: Callable[[float], int], stamp: Callable[[float], float]) -> None:
    """Move the arm to and fro for 3 s with 10 Hz images made by the two functions of the time."""

    def tick(now: float) -> None:
        if round(now / TICK) % 10 == 0:
            bench.loop.see(int(stamp(now) * 1e9), digest(now), now)
        if round(now / TICK) % 20 == 0:
            sign = 1.0 if round(now / 0.2) % 2 else -1.0
            bench.loop.act(FORWARD * [sign, 1, 1, 1, 1, 1, 1], 0.1, now)

    for _ in range(300):
        if bench.loop.status.state == State.ARMED:
            bench.run(TICK, tick)


def test_fresh_images_do_not_stop() -> None:
    bench = Bench(watch_images=True)
    follow(bench, lambda now: round(now * 1e3), lambda now: now)
    assert bench.loop.status.state == State.ARMED


@pytest.mark.parametrize("what", ["content", "stamp"])
def test_a_frozen_image_stops_within_two_tenths(what: str) -> None:
    bench = Bench(watch_images=True)

    def held(now: float) -> float:
        return min(now, 1.0) if now >= 1.0 else now

    if what == "content":
        follow(bench, lambda now: round(held(now) * 1e3), lambda now: now)
    else:
        follow(bench, lambda now: round(now * 1e3), held)
    assert bench.loop.status.reason == Reason.IMAGE_FROZEN
    assert bench.now <= 1.1 + 0.2 + 2 * TICK  # 1.1: the first image that repeats
    assert what in bench.loop.status.message


def test_the_same_image_of_an_arm_at_rest_is_no_fault() -> None:
    watch = ImageWatch(0.3)
    for index in range(20):
        watch.see(index, 7, np.zeros(3), 0.1 * index)
    assert watch.check(0.0, 1.95) is None


def test_silence_of_the_camera_stops_within_two_tenths_of_the_missing_image() -> None:
    bench = Bench(watch_images=True)
    bench.loop.see(1, 1, 0.0)
    seconds = bench.stopped_after(1.0, lambda now: bench.loop.act(STAY, 0.1, now))
    assert bench.loop.status.reason == Reason.IMAGE_STALE
    assert seconds <= 0.1 + 0.2 + 2 * TICK


def test_a_camera_that_lags_is_as_good_as_none() -> None:
    bench = Bench(watch_images=True)

    def each_tick(now: float) -> None:
        bench.loop.act(STAY, 0.1, now)
        bench.loop.see(round(now * 1e9), round(now * 1e3), now, lag)

    lag = 0.25
    bench.run(1.0, each_tick)
    assert bench.loop.status.state == State.ARMED
    lag = 0.35
    assert bench.stopped_after(0.2, each_tick) <= 0.1
    assert bench.loop.status.reason == Reason.IMAGE_STALE


def test_motion_ends_by_itself_long_before_silence_is_a_fault() -> None:
    bench = Bench()
    bench.loop.act(FORWARD, 0.1, 0.0)
    bench.run(0.2)
    assert bench.loop.status.state == State.ARMED
    last = np.diff(bench.driver.track[-3:], axis=0)
    assert np.abs(last).max() < 1e-3  # an action never moves the arm for longer than its own time
    assert bench.stopped_after(0.2) <= 0.1  # from when the next action was due
    assert bench.loop.status.reason == Reason.STALE_COMMAND


def test_a_chunk_is_stale_when_its_last_action_is_over() -> None:
    bench = Bench()
    bench.loop.act_chunk([STAY] * 5, 0.1, None, 0.1, 0.0)
    bench.run(0.5)
    assert bench.loop.status.state == State.ARMED
    assert bench.stopped_after(0.2) <= 0.1 + 2 * TICK
    assert bench.loop.status.reason == Reason.STALE_COMMAND


def test_no_action_is_due_after_the_policy_was_stopped() -> None:
    bench = Bench()
    bench.loop.act(FORWARD, 0.1, 0.0)
    bench.run(0.1)
    bench.loop.episode_ended()
    bench.run(1.0)
    assert bench.loop.status.state == State.ARMED


@pytest.mark.parametrize(
    "offset", [[0.3, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.6]], ids=["waist", "wrist"]
)
def test_an_arm_that_does_not_follow_is_stopped(offset: list[float]) -> None:
    bench = Bench()
    bench.run(1.0)
    bench.driver.offset = np.array(offset)
    seconds = bench.stopped_after(1.0)
    assert bench.loop.status.reason == Reason.FOLLOWING_ERROR
    assert seconds <= LAG_SECONDS + 2 * TICK


def test_a_short_lag_is_no_fault() -> None:
    bench = Bench()
    bench.driver.offset = np.array([0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    bench.run(LAG_SECONDS - 2 * TICK)
    bench.driver.offset = np.zeros(6)
    bench.run(1.0)
    assert bench.loop.status.state == State.ARMED


# --- stops are smooth, arming is deliberate


@pytest.mark.parametrize("stop", ["disarm", "emergency", "not a number"])
def test_every_stop_brakes_within_the_limits_and_a_tenth_of_a_second(stop: str) -> None:
    bench = Bench()
    bench.loop.act(FORWARD, 0.1, 0.0)
    bench.run(0.07)
    if stop == "disarm":
        bench.loop.disarm()
    elif stop == "emergency":
        bench.loop.emergency_stop(True)
    else:
        bench.loop.act(STAY * np.nan, 0.1, bench.now)
    bench.run(0.1)
    written = len(bench.driver.track)
    bench.run(0.5)
    assert len(bench.driver.track) == written, "it still moves"
    assert bench.smooth()


def test_arming_again_needs_the_arm_to_stand_and_does_not_jump() -> None:
    bench = Bench()
    bench.loop.act(FORWARD, 0.1, 0.0)
    bench.run(0.07)
    bench.loop.emergency_stop(True)
    bench.loop.emergency_stop(False)
    success, message = bench.loop.arm(bench.now)
    assert not success
    assert "braking" in message
    bench.run(0.2)
    before = bench.driver.read().joints
    assert bench.loop.arm(bench.now)[0]
    bench.run(TICK)
    np.testing.assert_allclose(bench.driver.read().joints, before, atol=1e-9)
    assert bench.loop.status.state == State.ARMED


def test_a_joint_measured_beyond_its_limit_stops_and_cannot_be_armed() -> None:
    bench = Bench()
    bench.driver.offset = np.array([0.0, 0.0, 2.7, 0.0, 0.0, 0.0])
    bench.stopped_after(0.1)
    assert bench.loop.status.reason == Reason.JOINT_LIMIT
    bench.run(0.2)
    success, message = bench.loop.arm(bench.now)
    assert not success
    assert "elbow" in message


def test_a_joint_that_is_not_a_number_cannot_be_armed() -> None:
    driver = LiveDriver(ROBOT)
    driver.offset = np.full(6, np.nan)
    assert "finite" in ArmLoop(ROBOT, driver).arm(0.0)[1]


def test_the_gripper_closes_no_further_at_its_force_limit() -> None:
    bench = Bench()
    closing = [0.0] * 7
    bench.loop.act(closing, 0.1, 0.0)
    bench.run(0.1)
    bench.driver.force = ROBOT.gripper.force + 1.0
    bench.run(TICK)
    held = bench.driver.read().gripper_m
    bench.loop.act(closing, 0.1, bench.now)
    bench.run(0.1)
    assert bench.driver.read().gripper_m == held > ROBOT.gripper.closed
    bench.loop.act(STAY, 0.1, bench.now)
    bench.run(0.3)
    assert bench.driver.read().gripper_m > held  # opening is always allowed


def test_joints_that_are_elsewhere_are_checked_for_clearance() -> None:
    robot = load_description("panda")
    kinematics = ArmKinematics(robot)
    pose = kinematics.forward(robot.home)
    bent = kinematics.inverse(pose, robot.home + np.eye(7)[0]).joints
    wall = Box("wall", np.array([-0.4, -0.4, 0.4]), np.array([0.0, -0.16, 0.8]))  # beside the elbow
    bench = Bench(replace(robot, keep_out=(wall,)))
    np.testing.assert_allclose(kinematics.forward(bent).position, pose.position, atol=2e-4)
    bench.driver.offset = bent - robot.home  # the same pose, another elbow
    bench.stopped_after(0.1)
    assert bench.loop.status.reason == Reason.KEEP_OUT
    assert "wall" in bench.loop.status.message


def test_a_burst_of_actions_is_no_faster_than_single_ones() -> None:
    controller = CartesianController(ROBOT)
    way = [controller.target_pose.position]
    for step in range(12):
        controller.command(FORWARD * [0, 1, 1, 1, 1, 1, 1] + [0, 0.02, 0, 0, 0, 0, 0], 0.001 * step)
    for tick in range(150):
        way.append(controller.pose_of(controller.tick(0.012 + tick * TICK).joints).position)
    speed = np.linalg.norm(np.diff(way, axis=0), axis=1) / TICK
    assert speed.max() <= 1.1 * ROBOT.step.translation / 0.1
