"""The real simulated graph loses a process during an episode: the arm stops in time and says why."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from grape_policy.supervisor import RunningStack, running_stack
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
pytestmark = [pytest.mark.ros, pytest.mark.slow]
BOND, STOP = 0.25, 0.1  # s
TRANSPORT = 0.05  # s, of DDS and the probe itself, on a busy machine


@pytest.fixture(scope="module")
def graph(
    ros_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, module_probe: Any
) -> Iterator[RunningStack]:
    root = tmp_path_factory.mktemp("stops")
    tiny_checkpoint(root / "checkpoint")
    arguments = {"checkpoint": str(root / "checkpoint"), "episodes_folder": str(root / "episodes")}
    with running_stack(arguments, int(ros_environment["ROS_DOMAIN_ID"]), root / "logs") as stack:
        module_probe.listen("action", "safety_state", "heartbeat")
        yield stack


class Episode:
    """One episode under way, in which at least three actions were followed."""

    def __init__(self, probe: Any) -> None:
        from grape_msgs.action import RunEpisode
        from grape_msgs.msg import SafetyState
        from grape_policy.nodes import base

        self.probe, self.armed = probe, SafetyState.ARMED
        self._client = base.action_client(probe.node, "run_episode")
        probe.until(self._client.server_is_ready, 30, "the episode manager")
        goal = RunEpisode.Goal(
            task="carrot_on_plate", initial_state_id="carrot_on_plate/collect/0001", max_steps=40
        )
        probe.received["action"].clear()
        accepted = self._client.send_goal_async(goal)
        probe.until(accepted.done, 30, "an answer to the goal")
        self._result = accepted.result().get_result_async()
        probe.until(lambda: len(probe.received["action"]) >= 3 or self._result.done(), 60, "three actions")
        assert not self._result.done(), self._result.result().result
        probe.received["safety_state"].clear()

    def seconds_to_stop(self, start: float) -> tuple[float, Any]:
        states = self.probe.received["safety_state"]
        self.probe.until(lambda: bool(states) and states[-1].state != self.armed, 5, "a stop")
        return time.monotonic() - start, states[-1]

    def result(self) -> Any:
        self.probe.until(self._result.done, 60, "the episode's result")
        self._client.destroy()
        return self._result.result().result


def _started_again(graph: RunningStack, probe: Any, name: str, killed: int) -> None:
    """Wait until the node's new process is heard: a request to the dead one, still known, gets no answer."""
    probe.until(lambda: graph.pids().get(name, killed) != killed, 60, f"new process of the {name}")
    probe.received["heartbeat"].clear()
    probe.wait_for("heartbeat", lambda beat: beat.frame_id == name, 60)
    probe.spin(0.5)  # until the new server knows this client too, see Probe.found


def test_a_killed_policy_stops_the_arm(graph: RunningStack, module_probe: Any, holds_rates: Any) -> None:
    from grape_msgs.msg import SafetyState

    def in_time() -> bool:
        module_probe.call("set_policy_task", seconds=60, active=False)  # it is there
        episode = Episode(module_probe)
        killed = graph.pids()["policy"]
        os.kill(killed, signal.SIGKILL)
        seconds, message = episode.seconds_to_stop(time.monotonic())
        result = episode.result()
        print(f"{seconds:.3f} s from SIGKILL to: {message.message}")
        # Whichever is first: it depends on how long ago the last action was.
        assert message.reason in (SafetyState.REASON_HEARTBEAT_LOST, SafetyState.REASON_STALE_COMMAND)
        assert result.outcome == "stopped"
        assert "heartbeat of the policy" in result.reason or "overdue" in result.reason
        _started_again(graph, module_probe, "policy", killed)
        return seconds <= BOND + STOP + TRANSPORT

    holds_rates(in_time)
    module_probe.call("set_policy_task", seconds=60, active=False)  # started again, and
    module_probe.spin(0.3)
    assert module_probe.received["safety_state"][-1].state != SafetyState.ARMED  # nobody armed by himself


def test_a_camera_and_arm_that_hang_stop_it(graph: RunningStack, module_probe: Any, holds_rates: Any) -> None:
    from grape_msgs.msg import SafetyState

    reasons = (
        SafetyState.REASON_HEARTBEAT_LOST,
        SafetyState.REASON_JOINT_STATES_STALE,
        SafetyState.REASON_IMAGE_STALE,
    )

    def in_time() -> bool:
        episode = Episode(module_probe)
        pid = graph.pids()["sim"]
        os.kill(pid, signal.SIGSTOP)
        try:
            seconds, message = episode.seconds_to_stop(time.monotonic())
        finally:
            os.kill(pid, signal.SIGCONT)
        print(f"{seconds:.3f} s from SIGSTOP to: {message.message}")
        assert message.reason in reasons
        assert episode.result().outcome == "stopped"
        return seconds <= BOND + STOP + TRANSPORT

    holds_rates(in_time)
