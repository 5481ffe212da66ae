"""The simulated robot as a ROS 2 node: physics in real time, camera, joint states, reset and judge.

Run with ``python -m grape_sim.node``. Physics ticks in the executor's thread; images are drawn in another.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grape_episodes import contract
from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import load_description
from grape_policy.loop_timer import LoopTimer
from grape_policy.nodes import base
from grape_policy.nodes.arm_messages import from_joint_state, to_joint_state, to_pose
from grape_policy.nodes.messages import MessageError, to_image, to_nanoseconds, to_stamp
from grape_policy.nodes.parameters import Parameter
from grape_policy.nodes.priority import run_preferred
from sensor_msgs.msg import CameraInfo

from grape_sim.camera_thread import CameraThread, Frame
from grape_sim.environment import TICK_SECONDS, SimEnvironment

MAX_CATCH_UP = 5  # ticks at once after a delay; what is beyond is lost, and counted
MAX_COMMAND_JUMP = 0.6  # rad; no controller with limits asks for more from one command to the next
PARAMETERS = (
    Parameter("suite", "in_domain", "Suite of the initial states: a shipped name or a file."),
    Parameter("initial_state_id", "", "Initial state of the scene at start; empty: the suite's first."),
    Parameter("judge", "simulator", "`simulator`: serve the verdict; any other: somebody else does."),
    Parameter("image_rate_hz", 10.0, "Camera images per second.", 1.0, 25.0, "Hz"),
    Parameter("image_scale", 1, "Size of the images, times the contract's; the view is the same.", 1, 4),
)


class SimNode(base.ManagedNode):
    """Owner of the simulated scene. Between commands the arm's servos hold the last joint target."""

    def __init__(self) -> None:
        super().__init__("sim", PARAMETERS)

    def configure(self) -> None:
        """Build the scene in its first state."""
        self._robot = load_description()
        self._environment = SimEnvironment(suite=self.parameters.suite)
        self._target = self._home = JointTarget(self._robot.home, self._robot.gripper.open)
        self._reset_ns = 0
        suite = self._environment.suite
        self._reset(self.parameters.initial_state_id or suite.state_ids(suite.splits[0], 1)[0], None)

    def activate(self) -> None:
        """Let time run, and show it."""
        self._open_topics()
        self._camera = CameraThread(self._environment.model, self._publish_frame, self.parameters.image_scale)
        self._image_delays: deque[float] = deque(maxlen=200)  # s from the state to its published colour image
        self._ticks_per_image = max(1, round(1.0 / (self.parameters.image_rate_hz * TICK_SECONDS)))
        self._ticks, self._lost_ticks = 0, 0
        self._timer_report = LoopTimer(TICK_SECONDS)
        self._origin = time.monotonic()
        self.create_timer(TICK_SECONDS, self._on_timer)
        self.create_timer(1.0, self._publish_diagnostics)

    def deactivate(self) -> None:
        """Stop the time; the camera's thread ends before DDS goes."""
        self._camera.close()

    def cleanup(self) -> None:
        """Let go of the scene."""
        self._environment.close()

    def _open_topics(self) -> None:
        self._colour = base.publisher(self, "color_image")
        self._depth = base.publisher(self, "depth_image")
        self._info = base.publisher(self, "camera_info")
        self._states = base.publisher(self, "joint_states")
        self._pose = base.publisher(self, "end_effector_pose")
        self._diagnostics = base.publisher(self, "diagnostics")
        base.subscription(self, "joint_command", self._on_command)
        base.service(self, "reset_scene", self._on_reset)
        if self.parameters.judge == "simulator":
            base.service(self, "judge_episode", self._on_judge)
        base.heartbeat(self, "camera")
        self._info.publish(camera_info(self._now_ns(), self.parameters.image_scale))

    def _on_timer(self) -> None:
        """Run the ticks that are due, then publish the newest state once."""
        start = time.monotonic()
        self._camera.check()
        due = int((start - self._origin) / TICK_SECONDS) - self._ticks
        if due > MAX_CATCH_UP:
            lost = due - MAX_CATCH_UP
            self._lost_ticks += lost
            self._origin += lost * TICK_SECONDS
        images = 0
        for _ in range(min(due, MAX_CATCH_UP)):
            self._environment.advance(self._target)
            self._ticks += 1
            images += self._ticks % self._ticks_per_image == 0
        if due > 0:
            self._publish_state()
        if images:
            self._camera.request(self._environment.positions(), self._now_ns())
        self._timer_report.add(start, time.monotonic())

    def _on_command(self, message: Any) -> None:
        if to_nanoseconds(message.header.stamp) < self._reset_ns:
            return  # meant for the scene before the reset
        try:
            values = np.array(from_joint_state(message, self._robot.joint_state_names))
        except MessageError as error:
            self._refuse(str(error))
            return
        if not np.all(np.isfinite(values)):
            self._refuse("not finite")
        elif float(np.abs(values[:-1] - self._target.joints).max()) > MAX_COMMAND_JUMP:
            self._refuse(f"a jump of more than {MAX_COMMAND_JUMP} rad")
        else:
            self._target = JointTarget(values[:-1], float(values[-1]))

    def _refuse(self, reason: str) -> None:
        self.get_logger().warning(f"joint command refused: {reason}", throttle_duration_sec=1.0)

    def _on_reset(self, request: Any, response: Any) -> Any:
        if not request.initial_state_id:
            return self._on_keep(request, response)
        try:
            self._reset(request.initial_state_id, request.task or None)
        except ValueError as error:
            response.success, response.message = False, str(error)
        else:
            self._camera.discard()
            self._camera.show(self._environment.model)
            self._publish_state()
            self._camera.request(self._environment.positions(), self._now_ns())
            response.success, response.message = True, "the scene is in the named state"
        response.initial_state_id = self._environment.initial_state_id
        response.instruction = self._environment.instruction
        return response

    def _on_keep(self, request: Any, response: Any) -> Any:
        """Leave the scene as it is and judge from here on, where the simulation knows the task."""
        try:
            self._environment.begin_judging(request.task or None)
            self._unjudged = ""
        except ValueError as error:
            self._unjudged = f"nobody judges this: {error}"
        response.success, response.message = True, self._unjudged or "judged from here on"
        response.initial_state_id = self._environment.initial_state_id
        response.instruction = self._environment.instruction
        return response

    def _reset(self, initial_state_id: str, task: str | None) -> None:
        self._environment.reset_scene(initial_state_id, task)
        self._target = self._home
        self._reset_ns = self._now_ns()
        self._unjudged = ""  # why there is no verdict

    def _on_judge(self, request: Any, response: Any) -> Any:
        if self._unjudged:
            response.success, response.message = False, self._unjudged
            return response
        verdict = self._environment.judge()
        response.success, response.grasped = verdict.success, verdict.grasped
        response.collisions, response.message = verdict.collisions, verdict.message
        return response

    def _publish_state(self) -> None:
        measured, stamp = self._environment.measure(), self._now_ns()
        frame = self._robot.base_frame
        names = self._robot.joint_state_names
        self._states.publish(to_joint_state(names, measured.joint_positions, stamp, frame))
        self._pose.publish(
            to_pose(measured.end_effector_position, measured.end_effector_quaternion, stamp, frame)
        )

    def _publish_frame(self, frame: Frame) -> None:
        """Publish one image; called in the camera's thread."""
        name = str(contract.document()["frames"]["camera"])
        if frame.key == "color_image":
            self._colour.publish(to_image(frame.pixels, "rgb8", frame.stamp_ns, name))
            self._image_delays.append((self._now_ns() - frame.stamp_ns) * 1e-9)
        else:
            self._depth.publish(to_image(frame.pixels, "16UC1", frame.stamp_ns, name))

    def _publish_diagnostics(self) -> None:
        report = self._timer_report.report()
        behind = self._lost_ticks > 0
        values = {
            **report.values(),
            "lost_seconds": f"{self._lost_ticks * TICK_SECONDS:.2f}",
            "skipped_images": str(self._camera.skipped),
            "image_delay_p50_ms": f"{np.percentile([*self._image_delays] or [0.0], 50) * 1e3:.3f}",
            "image_delay_p99_ms": f"{np.percentile([*self._image_delays] or [0.0], 99) * 1e3:.3f}",
        }
        entry = DiagnosticStatus(
            level=DiagnosticStatus.WARN if behind else DiagnosticStatus.OK,
            name="grape/sim",
            message="slower than real time: the machine is overloaded" if behind else "in real time",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[entry])
        array.header.stamp = to_stamp(self._now_ns())
        self._diagnostics.publish(array)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def camera_info(stamp_ns: int, scale: int = 1) -> CameraInfo:
    """Return the contract's camera, with ``scale`` times its pixels, as a ``CameraInfo`` (no distortion)."""
    camera = contract.scaled_camera(scale)
    k = camera.intrinsics
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k, message.r = k.ravel().tolist(), np.eye(3).ravel().tolist()
    message.p = np.hstack([k, np.zeros((3, 1))]).ravel().tolist()
    message.header.stamp = to_stamp(stamp_ns)
    message.header.frame_id = str(contract.document()["frames"]["camera"])
    return message


def main(arguments: list[str] | None = None) -> int:
    """Run the simulation until it is stopped."""
    run_preferred()
    return base.spin(SimNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
