"""The arm node with the mock driver as a real process over DDS."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grape_policy.arm.description import load_description

pytestmark = pytest.mark.ros
grape_msgs = pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

ARM = "grape_policy.nodes.arm_node"
OPEN = 1.0


def action(probe: Any, delta: list[float], step: int = 0, age: float = 0.0) -> Any:
    """Return an action message whose image is ``age`` seconds old."""
    from grape_policy.nodes.messages import to_stamp

    now = probe.node.get_clock().now().nanoseconds
    message = grape_msgs.ActionDelta(episode_id="test", step=step, action=delta)
    message.observation_stamp = to_stamp(now - int(age * 1e9))
    return message


def position(pose: Any) -> np.ndarray:
    p = pose.pose.position
    return np.array([p.x, p.y, p.z])


@pytest.fixture(scope="module")
def running(module_start: Any, module_probe: Any) -> Any:
    """One arm node for the file, seen by the probe; with its first safety state and joint positions."""
    module_start(ARM, driver="mock", watch="none")
    module_probe.listen("joint_states", "end_effector_pose", "safety_state", "diagnostics")
    module_probe.wait_for("end_effector_pose", seconds=30)
    first = module_probe.wait_for("safety_state"), module_probe.wait_for("joint_states")
    return SimpleNamespace(probe=module_probe, first_status=first[0], first_joints=first[1])


@pytest.fixture
def arm(running: Any) -> Any:
    """The arm, armed anew wherever the last test has left it."""
    probe = running.probe
    probe.call("emergency_stop", engage=False)
    probe.call("set_armed", armed=False)
    assert probe.call("set_armed", armed=True).success
    for messages in probe.received.values():
        messages.clear()
    probe.wait_for("end_effector_pose")
    probe.wait_for("joint_states")
    return probe


def last(probe: Any, key: str) -> Any:
    return probe.received[key][-1]


def state_becomes(probe: Any, state: int, seconds: float = 3.0) -> Any:
    probe.until(
        lambda: bool(probe.received["safety_state"]) and last(probe, "safety_state").state == state,
        seconds,
        f"safety state {state}",
    )
    return last(probe, "safety_state")


def test_starts_disarmed_and_does_not_move(running: Any) -> None:
    probe, first = running.probe, running.first_status
    assert first.state == grape_msgs.SafetyState.DISARMED
    assert first.reason == grape_msgs.SafetyState.REASON_NOT_ARMED_YET
    np.testing.assert_array_equal(running.first_joints.position[:6], load_description().home)
    probe.publish("action", action(probe, [0.03, 0, 0, 0, 0, 0, OPEN]))
    probe.spin(0.5)
    assert last(probe, "joint_states").position == running.first_joints.position


def test_follows_actions_by_the_commanded_delta(arm: Any) -> None:
    start_position = position(last(arm, "end_effector_pose"))
    deltas = [[0.02, 0.01, -0.01, 0, 0, 0, 0.0], [-0.01, 0.02, 0.0, 0, 0, 0.1, 0.0]]
    for step, delta in enumerate(deltas):
        arm.publish("action", action(arm, delta, step))
        arm.spin(0.2)
    goal = start_position + np.sum(deltas, axis=0)[:3]
    arm.until(lambda: np.allclose(position(last(arm, "end_effector_pose")), goal, atol=5e-4), 5, "the goal")
    closed = load_description().gripper.closed
    arm.until(lambda: abs(last(arm, "joint_states").position[6] - closed) < 1e-6, 5, "a closed gripper")


def test_joint_states_and_pose_come_at_fifty_hertz(arm: Any, holds_rates: Any) -> None:
    def enough_in_two_seconds() -> bool:
        arm.received["joint_states"].clear()
        arm.received["end_effector_pose"].clear()
        arm.spin(2.0)
        return min(len(arm.received["joint_states"]), len(arm.received["end_effector_pose"])) >= 90

    holds_rates(enough_in_two_seconds)


def test_not_a_number_stops_with_a_reason_and_holds(arm: Any) -> None:
    before = last(arm, "joint_states").position
    arm.publish("action", action(arm, [math.nan] * 7))
    status = state_becomes(arm, grape_msgs.SafetyState.STOPPED)
    assert status.reason == grape_msgs.SafetyState.REASON_INVALID_ACTION
    assert "finite" in status.message
    arm.publish("action", action(arm, [0.03, 0, 0, 0, 0, 0, OPEN]))
    arm.spin(0.4)
    np.testing.assert_allclose(last(arm, "joint_states").position, before, atol=1e-9)


def test_the_first_reason_stays_until_armed_again(arm: Any) -> None:
    arm.publish("action", action(arm, [0.0] * 6 + [OPEN]))
    arm.publish("action", action(arm, [9.0] * 7))
    state_becomes(arm, grape_msgs.SafetyState.STOPPED)
    arm.spin(1.5)  # the stale-command watchdog would have come by now
    assert last(arm, "safety_state").reason == grape_msgs.SafetyState.REASON_INVALID_ACTION
    assert arm.call("set_armed", armed=True).success
    state_becomes(arm, grape_msgs.SafetyState.ARMED)


def test_silence_after_the_first_action_stops(arm: Any) -> None:
    arm.spin(1.3)
    assert last(arm, "safety_state").state == grape_msgs.SafetyState.ARMED  # nothing was promised yet
    arm.publish("action", action(arm, [0.01, 0, 0, 0, 0, 0, OPEN]))
    sent = time.monotonic()
    status = state_becomes(arm, grape_msgs.SafetyState.STOPPED)
    assert status.reason == grape_msgs.SafetyState.REASON_STALE_COMMAND
    assert 0.28 < time.monotonic() - sent < 2.0


def test_the_end_of_an_episode_is_not_silence(arm: Any) -> None:
    arm.publish("episode_event", grape_msgs.EpisodeEvent())  # from now on the topic is matched
    arm.publish("action", action(arm, [0.01, 0, 0, 0, 0, 0, OPEN]))
    arm.publish("episode_event", grape_msgs.EpisodeEvent(event=grape_msgs.EpisodeEvent.FINISHED))
    arm.spin(1.5)
    assert last(arm, "safety_state").state == grape_msgs.SafetyState.ARMED


def test_an_action_from_an_old_image_is_not_followed(arm: Any) -> None:
    before = position(last(arm, "end_effector_pose"))
    arm.publish("action", action(arm, [0.03, 0, 0, 0, 0, 0, OPEN], age=3.0))
    arm.spin(0.4)
    np.testing.assert_allclose(position(last(arm, "end_effector_pose")), before, atol=1e-9)


def test_emergency_stop_latches_until_cleared(arm: Any) -> None:
    arm.publish("action", action(arm, [0.05, 0, 0, 0, 0, 0, OPEN]))
    answer = arm.call("emergency_stop", engage=True)
    assert answer.success
    arm.spin(0.3)  # it brakes, at most for 0.1 s
    stopped_at = list(last(arm, "joint_states").position)
    assert not arm.call("set_armed", armed=True).success
    arm.publish("action", action(arm, [0.05, 0, 0, 0, 0, 0, OPEN]))
    arm.spin(0.4)
    assert list(last(arm, "joint_states").position) == stopped_at
    assert last(arm, "safety_state").state == grape_msgs.SafetyState.EMERGENCY_STOPPED
    assert arm.call("emergency_stop", engage=False).success
    state_becomes(arm, grape_msgs.SafetyState.DISARMED)  # clearing never arms
    assert arm.call("set_armed", armed=True).success


def test_disarming_holds(arm: Any) -> None:
    arm.publish("action", action(arm, [0.05, 0, 0, 0, 0, 0, OPEN]))
    assert arm.call("set_armed", armed=False).success
    arm.spin(0.3)
    held = list(last(arm, "joint_states").position)
    arm.publish("action", action(arm, [0.05, 0, 0, 0, 0, 0, OPEN]))
    arm.spin(0.4)
    assert list(last(arm, "joint_states").position) == held
    assert last(arm, "safety_state").reason == grape_msgs.SafetyState.REASON_DISARMED_BY_REQUEST


def test_diagnostics_carry_state_and_timing(arm: Any) -> None:
    entry = arm.wait_for("diagnostics").status[0]
    values = {pair.key: pair.value for pair in entry.values}
    assert entry.name == "grape/arm"
    assert values["state"] == "ARMED"
    assert float(values["jitter_p99_ms"]) > 0


def test_without_joint_states_it_does_not_arm(module_start: Any, start: Any, probe: Any) -> None:
    if ARM in module_start.running:
        assert module_start.stop(ARM) == 0
    start(ARM, driver="sim")
    answer = probe.call("set_armed", seconds=30, armed=True)
    assert not answer.success
    assert "joint states" in answer.message


def test_an_unknown_driver_is_one_clear_line(start: Any) -> None:
    process = start(ARM, driver="warp")
    assert process.wait(timeout=30) == 1
