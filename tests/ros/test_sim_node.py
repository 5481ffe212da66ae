"""The simulated robot as a real process over DDS, alone and moved by the arm node."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from grape_episodes import contract
from grape_policy.arm.description import load_description
from grape_sim.environment import SimEnvironment

pytestmark = pytest.mark.ros
grape_msgs = pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

SIM, ARM = "grape_sim.node", "grape_policy.nodes.arm_node"
STATE = "eggplant_in_basket/train/0003"


@pytest.fixture
def sim(start: Any, probe: Any) -> Any:
    """A running simulation, seen by the probe."""
    start(SIM)
    probe.listen(
        "color_image", "depth_image", "camera_info", "joint_states", "end_effector_pose", "safety_state"
    )
    probe.wait_for("color_image", seconds=30)
    return probe


def nanoseconds(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def pixels(message: Any) -> np.ndarray:
    from grape_policy.nodes.messages import from_image

    return from_image(message)


def same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second))


def test_images_states_and_camera_have_the_contracts_rates_and_shapes(sim: Any) -> None:
    for key in ("color_image", "depth_image", "joint_states", "end_effector_pose"):
        sim.received[key].clear()
    sim.spin(3.0)
    assert len(sim.received["color_image"]) >= 27
    assert len(sim.received["depth_image"]) >= 27
    assert len(sim.received["joint_states"]) >= 130
    assert len(sim.received["end_effector_pose"]) >= 130
    colour, depth = sim.received["color_image"][-1], sim.received["depth_image"][-1]
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


def test_reset_is_exact_and_equals_the_environment(sim: Any) -> None:
    environment = SimEnvironment()
    try:
        expected = environment.reset(STATE)
    finally:
        environment.close()
    for _ in range(2):
        sim.received["color_image"].clear()
        sim.received["joint_states"].clear()
        answer = sim.call("reset_scene", task="eggplant_in_basket", initial_state_id=STATE)
        assert answer.success
        assert answer.initial_state_id == STATE
        assert answer.instruction == "put the eggplant in the basket"
        sim.wait_for("color_image", lambda m: same(pixels(m), expected.image))
        sim.wait_for("joint_states", lambda m: same(m.position, expected.joint_positions))


def test_a_wrong_state_is_refused_with_a_remedy(sim: Any) -> None:
    answer = sim.call("reset_scene", task="", initial_state_id="make_coffee/train/0001")
    assert not answer.success
    assert "carrot_on_plate" in answer.message
    assert answer.initial_state_id == "carrot_on_plate/train/0000"  # the scene stays as it was


def test_the_judge_answers(sim: Any) -> None:
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    verdict = sim.call("judge_episode")
    assert not verdict.success
    assert not verdict.grasped
    assert "eggplant" in verdict.message


def test_the_arm_node_moves_the_simulated_arm(sim: Any, start: Any) -> None:
    from grape_policy.nodes.messages import to_stamp

    start(ARM, driver="sim")
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    sim.until(lambda: sim.call("set_armed", armed=True).success, 15, "an armed arm")
    before = sim.received["end_effector_pose"][-1].pose.position
    for step in range(4):
        action = grape_msgs.ActionDelta(step=step, action=[0.0, 0.02, -0.01, 0.0, 0.0, 0.0, 0.0])
        action.observation_stamp = to_stamp(time.time_ns())
        sim.publish("action", action)
        sim.spin(0.2)
    sim.spin(0.3)
    after = sim.received["end_effector_pose"][-1].pose.position
    moved = [after.x - before.x, after.y - before.y, after.z - before.z]
    np.testing.assert_allclose(moved, [0.0, 0.08, -0.04], atol=0.004)
    gripper = sim.received["joint_states"][-1].position[6]
    assert gripper == pytest.approx(load_description().gripper.closed, abs=1e-3)

    # Resetting under a disarmed arm: the commands of before must not pull it back.
    assert sim.call("set_armed", armed=False).success
    assert sim.call("reset_scene", task="", initial_state_id=STATE).success
    sim.spin(0.4)
    at_home = sim.received["joint_states"][-1].position[:6]
    np.testing.assert_allclose(at_home, load_description().home, atol=2e-3)


def test_the_arm_stops_when_the_simulation_dies(sim: Any, start: Any) -> None:
    start(ARM, driver="sim", arm_on_start="true")
    sim.wait_for("safety_state", lambda m: m.state == grape_msgs.SafetyState.ARMED)
    start.stop(SIM)
    stopped = sim.wait_for("safety_state", lambda m: m.state == grape_msgs.SafetyState.STOPPED)
    assert stopped.reason == grape_msgs.SafetyState.REASON_JOINT_STATES_STALE
