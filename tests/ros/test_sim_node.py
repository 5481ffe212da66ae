"""The simulated robot as a real process over DDS, alone and moved by the arm node."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from grape_episodes import contract
from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import load_description
from grape_sim.environment import SimEnvironment

pytestmark = pytest.mark.ros
grape_msgs = pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

SIM, ARM = "grape_sim.node", "grape_policy.nodes.arm_node"
STATE = "eggplant_in_basket/train/0003"
LATEST_TICK = 25  # of 20 ms, after which a busy machine shows the first picture of a new scene
RATES = ("color_image", "depth_image", "joint_states", "end_effector_pose")


@pytest.fixture(scope="module")
def running(module_start: Any, module_probe: Any) -> Any:
    """One simulation for the file, seen by the probe."""
    module_start(SIM)
    keys = ("color_image", "depth_image", "camera_info", "joint_states", "end_effector_pose", "safety_state")
    module_probe.listen(*keys)
    module_probe.wait_for("color_image", seconds=60)
    module_probe.wait_for("camera_info")
    return module_probe


@pytest.fixture
def sim(running: Any) -> Any:
    """The simulation with an empty mailbox but for the latched camera description."""
    for key, messages in running.received.items():
        if key != "camera_info":
            messages.clear()
    return running


def nanoseconds(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def pixels(message: Any) -> np.ndarray:
    from grape_policy.nodes.messages import from_image

    return from_image(message)


def position(pose: Any) -> np.ndarray:
    p = pose.pose.position
    return np.array([p.x, p.y, p.z])


def joints(sim: Any) -> np.ndarray:
    """Return the newest joint positions."""
    return np.array(sim.received["joint_states"][-1].position)


def close(actual: Any, expected: Any, tolerance: float) -> bool:
    return bool(np.allclose(actual, expected, rtol=0, atol=tolerance))


def enough_in_three_seconds(sim: Any) -> bool:
    """Whether three seconds bring at least nine tenths of the contract's images and states."""
    for key in RATES:
        sim.received[key].clear()
    sim.spin(3.0)
    return all(len(sim.received[key]) >= 3.0 * 0.9 * contract.topics()[key].rate_hz for key in RATES)


def test_images_states_and_camera_have_the_contracts_rates_and_shapes(sim: Any, holds_rates: Any) -> None:
    holds_rates(lambda: enough_in_three_seconds(sim))
    # The last but one: the depth of the very last may still be on its way.
    colour, depth = sim.received["color_image"][-2], sim.received["depth_image"][-1]
    assert pixels(colour).shape == (240, 320, 3)
    assert pixels(depth).shape == (240, 320)
    assert pixels(depth).dtype == np.uint16
    assert nanoseconds(colour) in {nanoseconds(m) for m in sim.received["depth_image"]}
    info = sim.wait_for("camera_info")
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), contract.camera().intrinsics)
    assert info.header.frame_id == colour.header.frame_id == contract.document()["frames"]["camera"]
    stamps = np.array([nanoseconds(m) for m in sim.received["color_image"]])
    assert np.all(np.diff(stamps) > 0)
    assert abs(stamps[-1] - time.time_ns()) < 2e9


def seen_after_reset() -> list[Any]:
    """Return what a camera may see first: the named state, or it some ticks later, as the objects settle."""
    environment, robot = SimEnvironment(), load_description("wx250s")
    try:
        seen = [environment.reset(STATE)]
        for _ in range(LATEST_TICK):
            environment.advance(JointTarget(robot.home, robot.gripper.open))
            seen.append(environment.observe())
    finally:
        environment.close()
    return seen


def among(actual: Any, expected: Iterable[Any]) -> bool:
    """Whether ``actual`` equals one of ``expected`` exactly."""
    return any(np.array_equal(actual, each) for each in expected)


def test_reset_is_exact_and_equals_the_environment(sim: Any) -> None:
    expected = seen_after_reset()
    for _ in range(2):
        sim.received["color_image"].clear()
        sim.received["joint_states"].clear()
        answer = sim.call("reset_scene", task="eggplant_in_basket", initial_state_id=STATE)
        assert answer.success
        assert answer.initial_state_id == STATE
        assert answer.instruction == "put the eggplant in the basket"
        sim.wait_for("color_image", lambda m: among(pixels(m), [o.image for o in expected]))
        sim.wait_for("joint_states", lambda m: among(m.position, [o.joint_positions for o in expected]))


def test_a_wrong_state_is_refused_with_a_remedy(sim: Any) -> None:
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    answer = sim.call("reset_scene", task="", initial_state_id="make_coffee/train/0001")
    assert not answer.success
    assert "carrot_on_plate" in answer.message
    assert answer.initial_state_id == STATE  # the scene stays as it was


def test_the_judge_answers(sim: Any) -> None:
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    verdict = sim.call("judge_episode")
    assert not verdict.success
    assert not verdict.grasped
    assert "eggplant" in verdict.message


def test_commands_that_no_controller_would_send_are_refused(sim: Any) -> None:
    from grape_policy.nodes.arm_messages import to_joint_state

    robot = load_description()
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    near, frame = robot.home + 0.2, robot.base_frame
    names, now = robot.joint_state_names, time.time_ns()
    refused = [
        to_joint_state(names, [*near, np.nan], now, frame),
        to_joint_state(names, [*(robot.home + 1.0), 0.02], now, frame),  # a jump
        to_joint_state(names[:-1], near, now, frame),  # no gripper
        to_joint_state(names, [*near, 0.02], now - 10**10, frame),  # from before the reset
    ]
    for message in refused:
        sim.publish("joint_command", message)
    sim.spin(0.4)
    np.testing.assert_allclose(joints(sim)[:6], robot.home, atol=2e-3)
    sim.publish("joint_command", to_joint_state(names, [*near, 0.02], time.time_ns(), frame))
    sim.until(lambda: close(joints(sim)[:6], near, 5e-3), 10, "the accepted target")


def test_the_arm_node_moves_the_simulated_arm(sim: Any, start: Any) -> None:
    from grape_policy.nodes.messages import to_stamp

    start(ARM, driver="sim", watch="none")
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    sim.until(lambda: sim.call("set_armed", armed=True).success, 15, "an armed arm")
    sim.received["end_effector_pose"].clear()
    before = position(sim.wait_for("end_effector_pose"))
    for step in range(4):
        action = grape_msgs.ActionDelta(step=step, action=[0.0, 0.02, -0.01, 0.0, 0.0, 0.0, 0.0])
        action.observation_stamp = to_stamp(time.time_ns())
        sim.publish("action", action)
        sim.spin(0.2)
    goal = before + np.array([0.0, 0.08, -0.04])
    sim.until(lambda: close(position(sim.received["end_effector_pose"][-1]), goal, 0.003), 10, "the goal")
    sim.until(lambda: close(joints(sim)[6], load_description().gripper.closed, 1e-3), 10, "a closed gripper")

    # Resetting under a disarmed arm: the commands of before must not pull it back.
    assert sim.call("set_armed", armed=False).success
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    sim.spin(0.4)
    np.testing.assert_allclose(joints(sim)[:6], load_description().home, atol=2e-3)


def test_the_arm_stops_when_the_simulation_dies(sim: Any, start: Any, module_start: Any) -> None:
    start(ARM, driver="sim", arm_on_start="true")
    sim.wait_for("safety_state", lambda m: m.state == grape_msgs.SafetyState.ARMED)
    assert module_start.stop(SIM) == 0
    stopped = sim.wait_for("safety_state", lambda m: m.state == grape_msgs.SafetyState.STOPPED)
    assert stopped.reason == grape_msgs.SafetyState.REASON_JOINT_STATES_STALE


def test_a_wrong_parameter_is_one_clear_line(start: Any) -> None:
    process = start(SIM, initial_state_id="nowhere/train/0001")
    assert process.wait(timeout=30) == 1
