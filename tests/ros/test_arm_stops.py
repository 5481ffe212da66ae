"""How fast the arm node stops as a real process over DDS: policy, camera and e-stop are broken on purpose.

The probe plays policy and camera. Latencies are measured from the last sign of life, as the probe sent it, to
the safety state that says why; each must hold in one of a few tries (rates are judged per window).
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ros
grape_msgs = pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

ARM = "grape_policy.nodes.arm_node"
SafetyState = grape_msgs.SafetyState
BEAT, IMAGE, ACTION = 0.05, 0.1, 0.2  # s, periods of the contract
TRANSPORT = 0.04  # s, of DDS and the probe itself, on a busy machine


class Cell:
    """Plays policy and camera around a running arm node, each part of which can fall silent."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.beating, self.images, self.acting = {"policy", "camera"}, "fresh", True
        self.last: dict[str, float] = {}
        self._due = {"beat": 0.0, "image": 0.0, "action": 0.0}
        self._count = 0
        self._stamp_ns = 0

    def arm(self) -> None:
        from std_msgs.msg import Bool, Header

        probe = self.probe
        probe.publish("heartbeat", Header(frame_id="nobody"))
        probe.publish("emergency_stop", Bool(data=False))
        probe.publish("episode_event", grape_msgs.EpisodeEvent())
        probe.publish("color_image", self._image())
        probe.publish("action", grape_msgs.ActionDelta(action=[0.0] * 7))
        probe.call("emergency_stop", engage=False)
        probe.call("set_armed", armed=False)
        probe.spin(0.2)
        assert probe.call("set_armed", armed=True).success
        probe.received["safety_state"].clear()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._play(time.monotonic())
            self.probe.spin(0.005)

    def seconds_to_stop(self, limit: float = 3.0) -> tuple[float, Any]:
        """Play on until the arm says it is not armed; return the monotonic time and the message."""
        states = self.probe.received["safety_state"]
        end = time.monotonic() + limit
        while not (states and states[-1].state != SafetyState.ARMED):
            assert time.monotonic() < end, "the arm was not stopped"
            self._play(time.monotonic())
            self.probe.spin(0.005)
        return time.monotonic(), states[-1]

    def _play(self, now: float) -> None:
        if self._is_due("beat", BEAT, now):
            from std_msgs.msg import Header

            for name in self.beating:
                self.probe.publish("heartbeat", Header(frame_id=name))
                self.last[name] = now
        if self.images != "none" and self._is_due("image", IMAGE, now):
            self.probe.publish("color_image", self._image())
            if self.images == "fresh":
                self.last["image"] = now
        if self.acting and self._is_due("action", ACTION, now):
            self._act([0.03 if self._count % 2 else -0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
            self.last["action"] = now

    def _is_due(self, what: str, period: float, now: float) -> bool:
        if now < self._due[what]:
            return False
        self._due[what] = max(self._due[what] + period, now)
        return True

    def _act(self, action: list[float]) -> None:
        from grape_policy.nodes.messages import to_stamp

        self._count += 1
        message = grape_msgs.ActionDelta(episode_id="test", step=self._count, action=action)
        message.observation_stamp = to_stamp(self.probe.node.get_clock().now().nanoseconds)
        self.probe.publish("action", message)

    def _image(self) -> Any:
        from grape_policy.nodes.messages import to_image

        if self.images != "same stamp":
            self._stamp_ns = self.probe.node.get_clock().now().nanoseconds
        if self.images != "same content":
            self._pixels = np.random.default_rng(self._stamp_ns).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        return to_image(self._pixels, "rgb8", self._stamp_ns, "camera")


@pytest.fixture(scope="module")
def running(module_start: Any, module_probe: Any) -> Any:
    module_start(ARM, driver="mock")
    module_probe.listen("safety_state", "joint_states", "diagnostics")
    module_probe.wait_for("safety_state", seconds=30)
    return module_probe


def stops(
    holds_rates: Callable[..., None],
    running: Any,
    reason: int,
    bound: float,
    break_it: Callable[[Cell], str],
) -> Any:
    """Check that ``break_it``, which returns the key of the last sign of life, stops within ``bound`` s."""
    seen: list[Any] = []

    def in_time() -> bool:
        cell = Cell(running)
        cell.arm()
        cell.run(0.7)
        assert not [m for m in running.received["safety_state"] if m.state != SafetyState.ARMED]
        key = break_it(cell)
        stopped, message = cell.seconds_to_stop()
        assert message.reason == reason, message
        seen.append(message)
        print(f"{stopped - cell.last[key]:.3f} s from the last {key} to: {message.message}")
        return stopped - cell.last[key] <= bound + TRANSPORT

    holds_rates(in_time)
    return seen[-1]


@pytest.mark.parametrize("name", ["policy", "camera"])
def test_a_lost_heartbeat_stops(holds_rates: Any, running: Any, name: str) -> None:
    def silence(cell: Cell) -> str:
        cell.beating.discard(name)
        return name

    message = stops(holds_rates, running, SafetyState.REASON_HEARTBEAT_LOST, 0.25 + 0.1, silence)
    assert name in message.message


def test_missing_actions_stop(holds_rates: Any, running: Any) -> None:
    def silence(cell: Cell) -> str:
        cell.acting = False
        return "action"

    stops(holds_rates, running, SafetyState.REASON_STALE_COMMAND, ACTION + 0.1, silence)


def test_missing_images_stop(holds_rates: Any, running: Any) -> None:
    def silence(cell: Cell) -> str:
        cell.images = "none"
        return "image"

    stops(holds_rates, running, SafetyState.REASON_IMAGE_STALE, IMAGE + 0.2, silence)


@pytest.mark.parametrize("kind", ["same content", "same stamp"])
def test_a_frozen_image_stops(holds_rates: Any, running: Any, kind: str) -> None:
    def freeze(cell: Cell) -> str:
        cell.images = kind
        return "image"

    # The next image is the first that repeats; the arm may just then be turning round.
    stops(holds_rates, running, SafetyState.REASON_IMAGE_FROZEN, IMAGE + 0.2, freeze)


@pytest.mark.parametrize("value", [math.nan, math.inf, 40.0])
def test_an_action_that_makes_no_sense_stops(holds_rates: Any, running: Any, value: float) -> None:
    def nonsense(cell: Cell) -> str:
        cell.acting = False
        cell.last["nonsense"] = time.monotonic()
        cell._act([value, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        return "nonsense"

    stops(holds_rates, running, SafetyState.REASON_INVALID_ACTION, 0.1, nonsense)


def test_the_emergency_stop_topic_stops_latches_and_cannot_clear(holds_rates: Any, running: Any) -> None:
    from std_msgs.msg import Bool

    def press(cell: Cell) -> str:
        cell.last["press"] = time.monotonic()
        running.publish("emergency_stop", Bool(data=True))
        return "press"

    stops(holds_rates, running, SafetyState.REASON_EMERGENCY_STOP, 0.1, press)
    running.publish("emergency_stop", Bool(data=False))
    assert not running.call("set_armed", armed=True).success
    assert running.received["safety_state"][-1].state == SafetyState.EMERGENCY_STOPPED
    assert running.call("emergency_stop", engage=False).success
    assert running.received["safety_state"][-1].state != SafetyState.ARMED


def test_every_stop_is_on_diagnostics_at_once(running: Any) -> None:
    cell = Cell(running)
    cell.arm()
    cell.run(0.5)
    running.received["diagnostics"].clear()
    cell._act([math.nan] * 7)
    cell.acting = False
    cell.seconds_to_stop()
    entry = running.wait_for(
        "diagnostics", lambda m: any(v.value == "INVALID_ACTION" for v in m.status[0].values), 0.5
    )
    assert entry.status[0].level == entry.status[0].ERROR


def test_no_stop_jumps(running: Any) -> None:
    """The joint positions of the arm while it brakes keep to the acceleration limits, from tick to tick."""
    from grape_policy.arm.description import load_description

    robot, tick = load_description(), 0.01
    cell = Cell(running)
    cell.arm()
    cell.run(0.55)
    running.received["joint_states"].clear()
    cell._act([math.nan] * 7)
    cell.acting = False
    cell.run(0.3)
    track = np.array([m.position[:6] for m in running.received["joint_states"]])
    steps = np.abs(np.diff(track, axis=0))
    assert np.all(steps <= robot.velocity * 0.05 + 1e-9)  # a late tick covers at most 0.05 s
    assert np.all(np.abs(np.diff(track, n=2, axis=0)) <= robot.acceleration * tick * 0.05 + 1e-9)
    np.testing.assert_array_equal(track[-1], track[-5])


def test_stop_from_a_terminal_latches_and_clears(running: Any, ros_environment: dict[str, str]) -> None:
    cell = Cell(running)
    cell.arm()
    command = [sys.executable, "-m", "grape_training.cli", "stop"]
    run = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "emergency stop engaged" in run.stdout
    assert not running.call("set_armed", armed=True).success
    command.append("--clear")
    run = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    running.spin(0.2)
    assert running.received["safety_state"][-1].state == SafetyState.DISARMED


def test_stop_without_an_arm_says_so(ros_environment: dict[str, str]) -> None:
    from grape_policy.domain import reserved_domain

    with reserved_domain() as domain:
        command = [sys.executable, "-m", "grape_training.cli", "stop", "--domain", str(domain)]
        run = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "hardware stop" in run.stderr
