"""Action chunks through the arm node with the mock driver, as a real process over DDS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ros
grape_msgs = pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

ARM = "grape_policy.nodes.arm_node"
SafetyState = grape_msgs.SafetyState
PERIOD = 0.1


@pytest.fixture
def arm(start: Any, probe: Any) -> Any:
    start(ARM, driver="mock", watch="none")
    probe.listen("safety_state", "joint_states", "end_effector_pose", "action_started")
    probe.wait_for("end_effector_pose", seconds=30)
    probe.publish("action_chunk", grape_msgs.ActionChunk())  # matched from now on; not armed: not followed
    assert probe.call("set_armed", armed=True).success
    probe.spin(0.2)
    return probe


def chunk(probe: Any, steps: list[list[float]], first_step: int) -> Any:
    rows = np.array([[*step, 0.0, 0.0, 0.0, 1.0] for step in steps])
    message = grape_msgs.ActionChunk(episode_id="test", first_step=first_step, period=PERIOD)
    message.actions = rows.ravel().tolist()
    message.observation_stamp = probe.node.get_clock().now().to_msg()
    return message


def place(probe: Any) -> np.ndarray:
    point = probe.received["end_effector_pose"][-1].pose.position
    return np.array([point.x, point.y, point.z])


def test_what_ran_of_two_chunks_is_said_and_done(arm: Any) -> None:
    start, started = place(arm), arm.received["action_started"]
    old, new = chunk(arm, [[0.01, 0, 0]] * 6, 0), chunk(arm, [[0, 0.01, 0]] * 3, 2)
    arm.publish("action_chunk", old)
    arm.until(lambda: len(started) == 2, 5, "the second action")
    arm.publish("action_chunk", new)
    arm.until(lambda: len(started) == 5, 5, "the new chunk's last action")
    assert [message.step for message in started] == [0, 1, 2, 3, 4]
    assert [message.row for message in started] == [0, 1, 0, 1, 2]
    assert [message.observation_stamp for message in started] == [old.observation_stamp] * 2 + [
        new.observation_stamp
    ] * 3
    assert all(message.followed and message.episode_id == "test" for message in started)
    arm.until(lambda: arm.received["safety_state"][-1].state == SafetyState.STOPPED, 5, "a stop")
    assert arm.received["safety_state"][-1].reason == SafetyState.REASON_STALE_COMMAND
    np.testing.assert_allclose(place(arm) - start, [0.02, 0.03, 0.0], atol=5e-4)


def test_a_chunk_with_nonsense_in_it_stops_before_anything_of_it_runs(arm: Any) -> None:
    start = place(arm)
    arm.publish("action_chunk", chunk(arm, [[0.01, 0, 0], [float("nan"), 0, 0]], 0))
    arm.until(lambda: arm.received["safety_state"][-1].state == SafetyState.STOPPED, 5, "a stop")
    assert arm.received["safety_state"][-1].reason == SafetyState.REASON_INVALID_ACTION
    arm.spin(0.3)
    assert not arm.received["action_started"]
    np.testing.assert_allclose(place(arm), start, atol=1e-6)
