"""Managed nodes: what they offer in each state, who moves them, and what happens on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
pytestmark = pytest.mark.ros
ARM = ("grape_policy.nodes.arm_node", {"driver": "mock", "watch": "none"})


def change(probe: Any, transition: str, node: str = "arm") -> bool:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    client = probe.node.create_client(ChangeState, f"/{node}/change_state")
    probe.found(client.service_is_ready, 60, f"the life cycle of {node}")
    number = getattr(Transition, f"TRANSITION_{transition.upper()}")
    future = client.call_async(ChangeState.Request(transition=Transition(id=number)))
    probe.until(future.done, 60, f"the answer to {transition}")
    probe.node.destroy_client(client)
    return bool(future.result().success)


def offers(probe: Any, key: str) -> bool:
    from grape_episodes import contract

    probe.spin(0.5)  # the graph learns of it
    return contract.service_name(key) in dict(probe.node.get_service_names_and_types_by_node("arm", "/"))


def test_a_node_offers_its_services_only_while_it_is_active(start: Any, probe: Any) -> None:
    start(ARM[0], **ARM[1], autostart="false")
    probe.listen("joint_states")
    assert change(probe, "configure")
    assert not offers(probe, "set_armed")
    assert change(probe, "activate")
    assert probe.call("set_armed", armed=False).success
    probe.wait_for("joint_states")
    assert change(probe, "deactivate")
    assert not offers(probe, "set_armed")
    probe.received["joint_states"].clear()
    probe.spin(0.5)
    assert probe.received["joint_states"] == []
    assert change(probe, "activate")  # and all over again
    probe.wait_for("joint_states")


def test_a_transition_that_does_not_exist_is_refused(start: Any, probe: Any) -> None:
    process = start(ARM[0], **ARM[1], autostart="false")
    assert not change(probe, "activate")
    assert change(probe, "configure")
    assert not change(probe, "configure")
    assert process.poll() is None


def test_deactivating_an_armed_arm_disarms_it(start: Any, probe: Any) -> None:
    from grape_msgs.msg import SafetyState

    start(ARM[0], **ARM[1])  # brings itself up
    probe.listen("safety_state")
    assert probe.call("set_armed", seconds=60, armed=True).success
    probe.wait_for("safety_state", lambda m: m.state == SafetyState.ARMED)
    probe.received["safety_state"].clear()
    assert change(probe, "deactivate")
    probe.wait_for("safety_state", lambda m: m.state == SafetyState.DISARMED)
    assert change(probe, "activate")
    probe.received["safety_state"].clear()
    assert probe.wait_for("safety_state").state == SafetyState.DISARMED


def test_the_manager_brings_up_what_is_started_again_and_takes_all_down(
    start: Any, probe: Any, ros_environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "grape_policy.nodes.lifecycle_manager_node", "--ros-args"]
    command += ["-p", "nodes:=arm"]
    manager = subprocess.Popen(
        command, env=ros_environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first = start(ARM[0], **ARM[1], autostart="false")
    assert manager.stdout is not None
    assert manager.stdout.readline() == "ready\n"
    first.kill()
    first.wait(10)
    probe.listen("safety_state")
    second = start(ARM[0], **ARM[1], autostart="false")
    probe.wait_for("safety_state", seconds=60)  # of the second: the first one's services are seen for a while
    assert probe.call("set_armed", armed=True).success
    second.send_signal(signal.SIGINT)  # it waits for the manager to take it down
    manager.send_signal(signal.SIGINT)
    assert second.wait(20) == 0
    _, log = manager.communicate(timeout=20)
    assert manager.returncode == 0
    assert log.count("active: arm") == 2


def test_the_manager_needs_names(ros_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "grape_policy.nodes.lifecycle_manager_node"]
    result = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == "cannot start: lifecycle_manager: nodes is empty; name the managed nodes\n"
