"""Arm node: the only owner of the arm. Actions in; limits, inverse kinematics and safety; joint targets out.

Run with ``python -m grape_policy.nodes.arm_node --ros-args -p driver:=mock``.
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grape_episodes import contract
from grape_episodes.messages import header_stamp_ns
from grape_msgs.msg import ActionStarted, EpisodeEvent, SafetyState
from rclpy.duration import Duration

from grape_policy.arm.description import SHIPPED, RobotDescription, load_boxes, load_description
from grape_policy.arm.drivers import DRIVERS, REAL_DRIVERS, combination_error
from grape_policy.arm.loop import ArmLoop, Timeouts
from grape_policy.arm.safety import State, Status
from grape_policy.arm.trossen import TrossenDriver
from grape_policy.loop_timer import LoopTimer
from grape_policy.nodes import base
from grape_policy.nodes.control_thread import ControlThread
from grape_policy.nodes.drivers.controllers import CartesianPoseDriver, JointTrajectoryDriver, ServoDriver
from grape_policy.nodes.drivers.publishing import LiveMockDriver, PublishingDriver
from grape_policy.nodes.drivers.topic import TopicDriver
from grape_policy.nodes.messages import to_nanoseconds, to_stamp
from grape_policy.nodes.parameters import Parameter
from grape_policy.nodes.priority import run_as_controller, scheduling

BY_TOPICS = {
    "sim": TopicDriver,
    "servo": ServoDriver,
    "joint_trajectory": JointTrajectoryDriver,
    "cartesian_pose": CartesianPoseDriver,
}
HEARTBEATS = ("policy", "camera")  # whose it can watch
STATUS_PERIOD = 0.1  # s, repetition of the safety state
IMAGE_HEADER = 256  # bytes of a serialised image that its header takes at most; its padding is random
ACKNOWLEDGE_SECONDS = 0.2
BRAKE_SECONDS = 0.3  # from full speed it takes 0.1 s
PARAMETERS = (
    Parameter("driver", "sim", f"What moves the joints: {', '.join(DRIVERS)}."),
    Parameter("robot", "wx250s", f"Robot description: {', '.join(SHIPPED)}, or a YAML file of your own."),
    Parameter("address", "192.168.1.2", "IP address of the arm's controller (driver trossen)."),
    Parameter("keep_out", "", "YAML file with keep-out boxes of this site, added to the description's."),
    Parameter("rate_hz", 100.0, "Control ticks per second.", 50.0, 250.0, "Hz"),
    Parameter("arm_on_start", False, "Arm as soon as joint states arrive; otherwise wait for set_armed."),
    Parameter("overdue_timeout", 0.09, "An action overdue by this stops the arm.", 0.0, 10.0, "s"),
    Parameter("joint_states_timeout", 0.25, "Without joint states for this long it stops.", 0.02, 5.0, "s"),
    Parameter("observation_timeout", 1.0, "Actions from an older image are dropped.", 0.05, 10.0, "s"),
    Parameter("heartbeat_timeout", 0.25, "Without a watched node's heartbeat it stops.", 0.1, 10.0, "s"),
    Parameter("image_timeout", 0.3, "Without an image taken since it stops.", 0.05, 10.0, "s"),
    Parameter("watch", "policy,camera,images", "What it needs while it follows actions, or none."),
)


class ArmNode(base.ManagedNode):
    """Ticks in a thread of its own, callbacks in the executor's; ``_lock`` guards what they share."""

    def __init__(self) -> None:
        super().__init__("arm", PARAMETERS)

    def configure(self) -> None:
        """Read the robot's description and this site's boxes; refuse a driver that cannot move it."""
        self._description = self._describe()
        name = self.parameters.driver
        refusal = combination_error(name, self._description.model)
        if self.parameters.arm_on_start and name in REAL_DRIVERS:
            refusal = f"arm_on_start is not for real arms (driver {name}); arm it with set_armed"
        if refusal:
            raise ValueError(f"arm: {refusal}")

    def activate(self) -> None:
        """Take the driver, disarmed, and start to tick."""
        self._driver = self._make_driver(self._description)
        self._timer_report = LoopTimer(1.0 / self.parameters.rate_hz)
        self._loop = self._make_loop(self._description)
        self._frame = self._description.base_frame
        self._published: Status | None = None
        self._lock = threading.Lock()
        self._open_interfaces()

    def deactivate(self) -> None:
        """Brake to a stand, disarm, say so, and release the driver."""
        self._control.close()
        self._loop.disarm()
        end = time.monotonic() + BRAKE_SECONDS
        while not self._loop.still and time.monotonic() < end:
            self._loop.tick(time.monotonic())
            time.sleep(1.0 / self.parameters.rate_hz)
        self._publish_status()
        self._safety.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_SECONDS))  # before it is closed
        self._driver.close()

    def _describe(self) -> RobotDescription:
        description = load_description(self.parameters.robot)
        if not self.parameters.keep_out:
            return description
        boxes = load_boxes(Path(self.parameters.keep_out).expanduser())
        return replace(description, keep_out=(*description.keep_out, *boxes))

    def _make_loop(self, description: RobotDescription) -> ArmLoop:
        chosen = self.parameters
        watched = _words(chosen.watch)
        if watched - {*HEARTBEATS, "images"}:
            raise ValueError(
                f"arm: watch = {chosen.watch!r}: use some of {','.join(HEARTBEATS)},images or none"
            )
        return ArmLoop(
            description,
            self._driver,
            timeouts=Timeouts(
                chosen.overdue_timeout,
                chosen.joint_states_timeout,
                chosen.observation_timeout,
                chosen.heartbeat_timeout,
                chosen.image_timeout,
            ),
            period=float(contract.document()["control"]["period_seconds"]),
            interpolation_seconds=float(contract.document()["control"]["interpolation_seconds"]),
            watched=[name for name in HEARTBEATS if name in watched],
            watch_images="images" in watched,
            mark=self._timer_report.mark,
        )

    def _make_driver(self, description: RobotDescription) -> Any:
        name = self.parameters.driver
        if name in BY_TOPICS:
            return BY_TOPICS[name](self, description)
        mock = name == "mock"
        arm = LiveMockDriver(description) if mock else TrossenDriver(description, self.parameters.address)
        return PublishingDriver(self, description, arm)

    def _open_interfaces(self) -> None:
        self._safety = base.publisher(self, "safety_state")
        self._diagnostics = base.publisher(self, "diagnostics")
        self._started = base.publisher(self, "action_started")
        base.subscription(self, "action", self._on_action)
        base.subscription(self, "action_chunk", self._on_action_chunk)
        base.subscription(self, "episode_event", self._on_episode_event)
        base.subscription(self, "heartbeat", self._on_heartbeat)
        base.subscription(self, "emergency_stop", self._on_emergency_stop_message)
        if "images" in _words(self.parameters.watch):
            base.subscription(self, "color_image", self._on_image, raw=True)
        base.service(self, "set_armed", self._on_set_armed)
        base.service(self, "emergency_stop", self._on_emergency_stop)
        self.create_timer(STATUS_PERIOD, self._on_status_timer)
        self.create_timer(1.0, self._on_diagnostics_timer)
        self._arm_on_start = bool(self.parameters.arm_on_start)
        self._control = ControlThread(1.0 / self.parameters.rate_hz, self._on_tick)

    def _on_tick(self) -> None:
        self._timer_report.begin()
        with self._lock:
            self._timer_report.mark("wait")
            now = time.monotonic()
            if self._arm_on_start:
                self._arm_on_start = not self._loop.arm(now)[0]
            self._loop.tick(now)
            self._publish_begun()
            self._driver.publish()
            self._announce_change()
            self._timer_report.mark("publish")
            self._timer_report.end()

    def _on_status_timer(self) -> None:
        self._control.check()
        with self._lock:
            self._publish_status()

    def _on_diagnostics_timer(self) -> None:
        with self._lock:
            self._publish_diagnostics()

    def _on_action(self, message: Any) -> None:
        age = self._age(message)
        with self._lock:
            refusal = self._loop.act(message.action, age, time.monotonic())
            self._announce_change()
        self._warn_of(refusal, f"action {message.step}", message)

    def _on_action_chunk(self, message: Any) -> None:
        age = self._age(message)
        with self._lock:
            refusal = self._loop.act_chunk(message.actions, message.period, message, age, time.monotonic())
            self._announce_change()
        self._warn_of(refusal, f"chunk from action {message.first_step} on", message)

    def _age(self, message: Any) -> float:
        """Return how old (s) the image is that the message was computed from."""
        return (self.get_clock().now().nanoseconds - to_nanoseconds(message.observation_stamp)) * 1e-9

    def _warn_of(self, refusal: str, what: str, message: Any) -> None:
        if refusal:
            text = f"{what} of {message.episode_id!r} not followed: {refusal}"
            self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _publish_begun(self) -> None:
        """Say which actions of chunks began: together with the chunks this is what ran."""
        for begun in self._loop.begun():
            source: Any = begun.chunk.name
            message = ActionStarted(observation_stamp=source.observation_stamp, episode_id=source.episode_id)
            message.step, message.row = source.first_step + begun.row, begun.row
            message.followed = begun.followed
            message.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
            message.header.frame_id = self._frame
            self._started.publish(message)

    def _on_episode_event(self, message: Any) -> None:
        if message.event in (EpisodeEvent.ACTING_ENDED, EpisodeEvent.FINISHED, EpisodeEvent.ABORTED):
            with self._lock:
                self._loop.episode_ended()

    def _on_heartbeat(self, message: Any) -> None:
        with self._lock:
            self._loop.beat(message.frame_id, time.monotonic())

    def _on_image(self, data: bytes) -> None:
        """Note an image, serialised: to compare it with the last one it need not be unpacked."""
        digest = zlib.crc32(memoryview(data)[IMAGE_HEADER:])
        stamp_ns = header_stamp_ns(data)
        age = (self.get_clock().now().nanoseconds - stamp_ns) * 1e-9
        with self._lock:
            self._loop.see(stamp_ns, digest, time.monotonic(), age)

    def _on_emergency_stop_message(self, message: Any) -> None:
        """Latch on true; false is no message that could clear anything: only the service clears."""
        if message.data:
            with self._lock:
                self._arm_on_start = False
                self._loop.emergency_stop(True)
                self._announce_change()

    def _on_set_armed(self, request: Any, response: Any) -> Any:
        with self._lock:
            self._arm_on_start = False
            if request.armed:
                response.success, response.message = self._loop.arm(time.monotonic())
            else:
                response.message = self._loop.disarm()
                response.success = self._loop.status.state == State.DISARMED
            self._announce_change()
        return response

    def _on_emergency_stop(self, request: Any, response: Any) -> Any:
        with self._lock:
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
            self._publish_diagnostics()

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
            **report.values(),
            "scheduling": scheduling(),
            "unreachable_targets": str(self._loop.unreachable),
            "too_near_targets": str(self._loop.too_near),
        }
        entry = DiagnosticStatus(
            level=DiagnosticStatus.OK if healthy else DiagnosticStatus.ERROR,
            name="grape/arm",
            message=status.message,
            hardware_id=self.parameters.driver,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[entry])
        array.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(array)


def _words(text: str) -> set[str]:
    """Return the names in a comma-separated list; ``none`` names nothing."""
    return {word.strip() for word in text.split(",") if word.strip()} - {"none"}


def main(arguments: list[str] | None = None) -> int:
    """Run the arm node until it is stopped."""
    run_as_controller()
    return base.spin(ArmNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
