"""The running graph as a collection sees it: one client node, every call with a time limit."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from grape_episodes import contract
from grape_msgs.action import RunEpisode
from grape_msgs.msg import ActionDelta, SafetyState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from grape_policy.arm.description import load_description
from grape_policy.arm.kinematics import Pose
from grape_policy.collection.robot import RobotError, Run
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.scene import View
from grape_policy.nodes import base, scripted_motion
from grape_policy.nodes.messages import from_image, intrinsics_of, to_nanoseconds, to_stamp
from grape_policy.nodes.peers import Peers
from grape_policy.nodes.scripted_motion import Waypoint
from grape_policy.nodes.waiting import MATCH_SECONDS, REPEAT_SECONDS, repeatable

NEEDED = ("set_policy_task", "set_armed", "start_recording")
SERVICE_SECONDS = 10.0
LOOK_SECONDS = 3.0
END_SECONDS = 5.0  # in which an episode manager that only seemed to be gone ends the episode
MOTION_SECONDS = 30.0  # to one waypoint
CANCEL_SECONDS = 15.0
EPISODE_OVERHEAD_SECONDS = 60.0
STREAMS = ("color_image", "depth_image", "joint_states", "end_effector_pose")
SENSORS = (*STREAMS, "camera_info", "safety_state")


class CollectionRobot:
    """Implements :class:`grape_policy.collection.robot.Robot` on the contract's topics and services."""

    def __init__(
        self,
        node: Node,
        executor: SingleThreadedExecutor,
        robot: str = "wx250s",
        failure: Callable[[], str] = lambda: "",
    ) -> None:
        """Open the client's side; ``failure`` says why the graph is gone for good, where that is known."""
        self._node, self._executor, self._failure = node, executor, failure
        self._description = load_description(robot)
        self._newest: dict[str, Any] = {}
        for key in SENSORS:
            base.subscription(node, key, partial(self._newest.__setitem__, key))
        self._clients = {key: base.client(node, key) for key in (*NEEDED, "reset_scene")}
        self._known: set[str] = set()  # services that have answered: they know this client
        self._runner = base.action_client(node, "run_episode")
        self._manager_lost = False
        self._peers = Peers(node, ("episode_manager",), self._on_lost)
        self._actions = base.publisher(node, "action")
        self._requests = base.publisher(node, "operator_request")
        self._answer: bool | None = None
        base.service(node, "confirm_request", self._on_confirm)
        self._control = contract.document()["control"]

    def ready(self, seconds: float) -> str:
        """Wait for policy, arm, recorder and episode manager; return what is missing, or nothing."""
        self._until(lambda: bool(self._failure()) or not self._absent(), seconds)
        if self._failure():
            return f"the graph stopped: {self._failure()}"
        absent = self._absent()
        return f"nothing serves {', '.join(absent)} after {seconds:.0f} s; is the graph up?" if absent else ""

    def _absent(self) -> list[str]:
        servers = {contract.service_name(key): self._clients[key].service_is_ready for key in NEEDED}
        servers[contract.action_name("run_episode")] = self._runner.server_is_ready
        return [name for name, is_ready in servers.items() if not is_ready()]

    def policy_version(self) -> str:
        """Tell the policy not to act and return its version."""
        return str(self._demand("set_policy_task", active=False).policy_version)

    def emergency_stopped(self) -> bool:
        """Whether the emergency stop is latched."""
        self._spin_once()
        state = self._newest.get("safety_state")
        return state is not None and state.state == SafetyState.EMERGENCY_STOPPED

    def sleep(self, seconds: float) -> None:
        """Wait, and go on receiving."""
        self._until(lambda: False, seconds)

    def reset(self, rollout: Rollout) -> None:
        """Let the simulator put the scene into the named state; nothing acts meanwhile."""
        self._demand("set_policy_task", active=False)
        self._demand("set_armed", armed=False)
        state = rollout.initial_state_id
        answer = self._demand("reset_scene", task=rollout.task, initial_state_id=state)
        if answer.initial_state_id != state:
            raise RobotError(f"the scene is in {answer.initial_state_id!r}, not {state!r}")

    def scatter(self, seed: int) -> None:
        """Sweep the table's middle, then home."""
        home = scripted_motion.home_waypoint(self._description)
        self._move([home, *scripted_motion.scatter_waypoints(self._description, seed), home])

    def home(self) -> None:
        """Move straight up, then to where episodes begin."""
        home = scripted_motion.home_waypoint(self._description)
        now = self._pose()
        up = np.array([now.position[0], now.position[1], max(now.position[2], home.position[2])])
        self._move([Waypoint(up, now.quaternion, home.gripper), home])

    def ask(self, text: str, seconds: float) -> bool:
        """Publish the request, show it in a terminal, and wait for the service or the Enter key."""
        self._answer = None
        self._requests.publish(String(data=text))
        terminal = sys.stdin is not None and sys.stdin.isatty()
        print(f"{text} Then {'press Enter, or ' if terminal else ''}run: grape confirm", flush=True)
        try:
            self._until(lambda: self._answer is not None or (terminal and self._entered()), seconds)
        finally:
            self._requests.publish(String(data=""))
        return bool(self._answer)

    def look(self) -> View:
        """Return the second image pair that arrives from now on: the first may have been on its way."""
        self._next_images()
        colour, depth = self._next_images()
        joints, pose = self._newest["joint_states"], self._pose()
        try:
            pixels, distances = from_image(colour), from_image(depth)
        except ValueError as error:
            raise RobotError(f"the image cannot be used: {error}") from error
        return View(
            pixels,
            distances,
            tuple(joints.name),
            np.array(joints.position),
            pose.position,
            pose.quaternion,
            intrinsics_of(self._newest["camera_info"]),
        )

    def run(
        self, rollout: Rollout, instruction: str, max_steps: int, temperature: float, keep_scene: bool
    ) -> Run:
        """Run one episode; Ctrl+C cancels it and waits until it is closed."""
        goal = RunEpisode.Goal(
            task=rollout.task,
            initial_state_id=rollout.initial_state_id,
            instruction=instruction,
            max_steps=max_steps,
            temperature=float(temperature),
            seed=rollout.seed,
            keep_scene=keep_scene,
        )
        self._manager_lost = False
        sent = self._runner.send_goal_async(goal)
        if not self._until(sent.done, SERVICE_SECONDS):
            raise RobotError("the episode manager does not answer; look at its log")
        if not sent.result().accepted:
            self.sleep(1.0)
            raise RobotError("the episode manager is busy with another episode")
        seconds = max_steps * float(self._control["period_seconds"]) + EPISODE_OVERHEAD_SECONDS
        result = self._result(sent.result(), seconds)
        return Run(result.episode_id, result.outcome, result.stop_reason, result.reason)

    def _result(self, handle: Any, seconds: float) -> Any:
        future = handle.get_result_async()
        try:
            in_time = self._until(lambda: future.done() or self._manager_lost, seconds)
        except KeyboardInterrupt:
            handle.cancel_goal_async()
            self._until(future.done, CANCEL_SECONDS)
            raise
        if not future.done():
            handle.cancel_goal_async()
            if not self._until(future.done, END_SECONDS if in_time else CANCEL_SECONDS):
                went = "the episode manager went away during the episode"
                raise RobotError(went if in_time else f"the episode did not end within {seconds:.0f} s")
        return future.result().result

    def _on_lost(self, name: str) -> None:
        """Note a silence of the episode manager: one that was started again knows of no episode."""
        self._manager_lost = True

    def _demand(self, key: str, **fields: Any) -> Any:
        client, name = self._clients[key], contract.service_name(key)
        if not self._until(client.service_is_ready, SERVICE_SECONDS):
            raise RobotError(f"nothing serves {name}; check that its node runs")
        self.sleep(0.0 if key in self._known else MATCH_SECONDS)
        end = time.monotonic() + SERVICE_SECONDS
        patience = REPEAT_SECONDS if repeatable(key, fields) else SERVICE_SECONDS
        while (left := end - time.monotonic()) > 0.0:
            future = client.call_async(client.srv_type.Request(**fields))
            if self._until(future.done, min(left, patience)):
                self._known.add(key)
                return _accepted(name, future.result())
            client.remove_pending_request(future)
            self._known.discard(key)
            patience *= 2.0
        raise RobotError(f"{name} did not answer within {SERVICE_SECONDS:g} s; look at its node's log")

    def _next_images(self) -> tuple[Any, Any]:
        """Wait for an image and a depth image with the same stamp, and for the arm's state."""
        for key in STREAMS:
            self._newest.pop(key, None)
        if not self._until(self._seen_anew, LOOK_SECONDS):
            raise RobotError(f"no fresh images and joint states within {LOOK_SECONDS:g} s")
        return self._newest["color_image"], self._newest["depth_image"]

    def _seen_anew(self) -> bool:
        if any(key not in self._newest for key in (*STREAMS, "camera_info")):
            return False
        stamps = [self._newest[key].header.stamp for key in ("color_image", "depth_image")]
        return abs(to_nanoseconds(stamps[0]) - to_nanoseconds(stamps[1])) < 50_000_000

    def _pose(self) -> Pose:
        if not self._until(lambda: "end_effector_pose" in self._newest, LOOK_SECONDS):
            raise RobotError("the arm does not report where it is; look at its node's log")
        pose = self._newest["end_effector_pose"].pose
        p, q = pose.position, pose.orientation
        return Pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))

    def _move(self, waypoints: Iterable[Waypoint]) -> None:
        """Move the arm from waypoint to waypoint under all its guards, then disarm it."""
        self._demand("set_policy_task", active=False)
        self._demand("set_armed", armed=True)
        self._newest.pop("safety_state", None)
        try:
            for waypoint in waypoints:
                self._move_to(waypoint)
        finally:
            self._demand("set_armed", armed=False)

    def _move_to(self, goal: Waypoint) -> None:
        period, until = float(self._control["period_seconds"]), time.monotonic() + MOTION_SECONDS
        while not scripted_motion.arrived(self._pose(), goal):
            state = self._newest.get("safety_state")
            if state is not None and state.state != SafetyState.ARMED:
                raise RobotError(f"the arm stopped during a scripted motion: {state.message}")
            if time.monotonic() > until:
                raise RobotError(f"the arm did not get to {np.round(goal.position, 3)} in time")
            self._act(scripted_motion.action_towards(self._pose(), goal))
            self.sleep(period)

    def _act(self, action: np.ndarray) -> None:
        image = self._newest.get("color_image")
        if image is None:
            raise RobotError("no image has come yet; the arm follows none without")
        message = ActionDelta(episode_id="scripted", policy_version="scripted", action=action)
        message.header.stamp = to_stamp(self._node.get_clock().now().nanoseconds)
        message.observation_stamp = image.header.stamp
        self._actions.publish(message)

    def _on_confirm(self, request: Any, response: Any) -> Any:
        self._answer = bool(request.data)
        response.success, response.message = True, "thank you" if request.data else "noted: it was not done"
        return response

    def _entered(self) -> bool:
        if not select.select([sys.stdin], [], [], 0.0)[0]:
            return False
        sys.stdin.readline()
        self._answer = True
        return True

    def _spin_once(self) -> None:
        self._executor.spin_once(timeout_sec=0.0)

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(0.05, left))
        return True


def _accepted(name: str, answer: Any) -> Any:
    if not answer.success:
        raise RobotError(f"{name} refused: {answer.message}")
    return answer
