"""Arm node: the only owner of the arm. Actions in; limits, inverse kinematics and safety; joint targets out.

Run with ``python -m grape_policy.nodes.arm_node --ros-args -p driver:=mock``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grape_episodes import contract
from grape_msgs.msg import EpisodeEvent, SafetyState
from rclpy.node import Node

from grape_policy.arm.description import load_description
from grape_policy.arm.loop import ArmLoop, Timeouts
from grape_policy.arm.safety import State, Status
from grape_policy.nodes import base
from grape_policy.nodes.drivers.mock import PublishingMockDriver
from grape_policy.nodes.drivers.topic import TopicDriver
from grape_policy.nodes.loop_timer import LoopTimer
from grape_policy.nodes.messages import to_nanoseconds, to_stamp
from grape_policy.nodes.parameters import Parameter, declare

DRIVERS = {"mock": PublishingMockDriver, "sim": TopicDriver}
STATUS_PERIOD = 0.1  # s, repetition of the safety state
PARAMETERS = (
    Parameter("driver", "sim", "What moves the joints: mock (in memory) or sim (another node, by topics)."),
    Parameter("robot", "wx250s", "Robot description."),
    Parameter("rate_hz", 50.0, "Control ticks per second.", 50.0, 250.0, "Hz"),
    Parameter("arm_on_start", False, "Arm as soon as joint states arrive; otherwise wait for set_armed."),
    Parameter("command_timeout", 1.0, "Without an action for this long the arm stops.", 0.05, 10.0, "s"),
    Parameter("joint_states_timeout", 0.5, "Without joint states for this long it stops.", 0.02, 5.0, "s"),
    Parameter("observation_timeout", 1.0, "Actions from an older image are dropped.", 0.05, 10.0, "s"),
)


class ArmNode(Node):
    """Single-threaded: every callback is short, so a tick is never late by more than one of them."""

    def __init__(self) -> None:
        super().__init__("arm")
        self._parameters = declare(self, PARAMETERS)
        description = load_description(self._parameters.robot)
        self._driver = self._make_driver(description)
        self._loop = ArmLoop(
            description,
            self._driver,
            timeouts=Timeouts(
                self._parameters.command_timeout,
                self._parameters.joint_states_timeout,
                self._parameters.observation_timeout,
            ),
            interpolation_seconds=float(contract.document()["control"]["interpolation_seconds"]),
        )
        self._frame = description.base_frame
        self._timer_report = LoopTimer(1.0 / self._parameters.rate_hz)
        self._published: Status | None = None
        self._open_interfaces()

    def close(self) -> None:
        """Disarm, say so, and release the driver."""
        self._loop.disarm()
        self._publish_status()
        self._driver.close()

    def _make_driver(self, description: Any) -> Any:
        name = self._parameters.driver
        if name not in DRIVERS:
            raise ValueError(f"arm: driver {name!r} is not known; set driver to one of {', '.join(DRIVERS)}")
        return DRIVERS[name](self, description)

    def _open_interfaces(self) -> None:
        self._safety = base.publisher(self, "safety_state")
        self._diagnostics = base.publisher(self, "diagnostics")
        base.subscription(self, "action", self._on_action)
        base.subscription(self, "episode_event", self._on_episode_event)
        base.service(self, "set_armed", self._on_set_armed)
        base.service(self, "emergency_stop", self._on_emergency_stop)
        self.create_timer(1.0 / self._parameters.rate_hz, self._on_tick)
        self.create_timer(STATUS_PERIOD, self._publish_status)
        self.create_timer(1.0, self._publish_diagnostics)
        self._arm_on_start = bool(self._parameters.arm_on_start)

    def _on_tick(self) -> None:
        now = time.monotonic()
        if self._arm_on_start:
            self._arm_on_start = not self._loop.arm(now)[0]
        self._loop.tick(now)
        if isinstance(self._driver, PublishingMockDriver):
            self._driver.publish()
        self._announce_change()
        self._timer_report.add(now, time.monotonic())

    def _on_action(self, message: Any) -> None:
        age = (self.get_clock().now().nanoseconds - to_nanoseconds(message.observation_stamp)) * 1e-9
        refusal = self._loop.act(message.action, age, time.monotonic())
        if refusal:
            text = f"action {message.step} of {message.episode_id!r} not followed: {refusal}"
            self.get_logger().warning(text, throttle_duration_sec=1.0)
        self._announce_change()

    def _on_episode_event(self, message: Any) -> None:
        if message.event in (EpisodeEvent.FINISHED, EpisodeEvent.ABORTED):
            self._loop.episode_ended()

    def _on_set_armed(self, request: Any, response: Any) -> Any:
        self._arm_on_start = False
        if request.armed:
            response.success, response.message = self._loop.arm(time.monotonic())
        else:
            response.message = self._loop.disarm()
            response.success = self._loop.status.state == State.DISARMED
        self._announce_change()
        return response

    def _on_emergency_stop(self, request: Any, response: Any) -> Any:
        self._arm_on_start = False
        response.message = self._loop.emergency_stop(request.engage)
        response.success = True
        self._announce_change()
        return response

    def _announce_change(self) -> None:
        if self._loop.status != self._published:
            status = self._loop.status
            self.get_logger().info(f"{status.state.name}: {status.message}")
            self._publish_status()

    def _publish_status(self) -> None:
        status = self._published = self._loop.status
        message = SafetyState(state=int(status.state), reason=int(status.reason), message=status.message)
        message.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
        message.header.frame_id = self._frame
        self._safety.publish(message)

    def _publish_diagnostics(self) -> None:
        report, status = self._timer_report.report(), self._loop.status
        healthy = status.state in (State.ARMED, State.DISARMED)
        values = {
            "state": status.state.name,
            "reason": status.reason.name,
            "jitter_p99_ms": f"{report.jitter_p99_ms:.3f}",
            "work_p99_ms": f"{report.work_p99_ms:.3f}",
            "late_ticks": str(report.late),
            "unreachable_targets": str(self._loop.unreachable),
        }
        entry = DiagnosticStatus(
            level=DiagnosticStatus.OK if healthy else DiagnosticStatus.ERROR,
            name="grape/arm",
            message=status.message,
            hardware_id=self._parameters.driver,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[entry])
        array.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(array)


def main(arguments: list[str] | None = None) -> int:
    """Run the arm node until it is stopped."""
    return base.spin(ArmNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
