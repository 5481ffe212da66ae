"""Sensors, arm, scene and policy of a test, played by one node over real DDS; each can misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from episode_factory import make_episode
from grape_episodes import contract, messages
from grape_msgs.msg import SafetyState
from grape_policy.nodes import base
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message

ACTIONS = 40
VERSION = "test-0123abcd"


class Sensors:
    """Publishes 10 Hz images and 50 Hz states, and an action for every second image while ``acting``."""

    def __init__(self, node: Any) -> None:
        recorded = [key for key, topic in contract.topics().items() if topic.recorded]
        self.publishers = {key: base.publisher(node, key) for key in recorded if key != "episode_event"}
        self.sent: dict[str, int] = dict.fromkeys(recorded, 0)
        self.episode = make_episode(steps=ACTIONS)
        self.episode_id = ""
        self.states, self.frames, self.step = 0, 0, 0
        self.acting = False
        self.stamps: list[int] = []
        self.publish("camera_info", messages.camera_info(contract.camera(), time.time_ns(), "camera"))
        node.create_timer(0.02, self.send_state)
        node.create_timer(0.1, self.send_images)

    def publish(self, key: str, message: Any) -> None:
        kind = base.interface_type(contract.topics()[key].type)
        self.publishers[key].publish(deserialize_message(messages.serialize(message), kind))
        self.sent[key] += 1

    def send_state(self) -> None:
        joints, now = np.full(7, 0.001 * self.states), time.time_ns()
        self.publish("joint_states", messages.joint_state(self.episode.joint_names, joints, now))
        pose = messages.pose(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 0.0, 1.0]), now, "base")
        self.publish("end_effector_pose", pose)
        self.states += 1

    def send_images(self) -> None:
        now, index = time.time_ns(), self.frames % ACTIONS
        assert self.episode.depths is not None
        self.publish("color_image", messages.color_image(self.episode.images[index], now, "camera"))
        self.publish("depth_image", messages.depth_image(self.episode.depths[index], now, "camera"))
        self.stamps.append(now)
        if self.acting and self.frames % 2 == 0:
            self.send_action(now)
        self.frames += 1

    def send_action(self, stamp: int) -> None:
        message = messages.action_delta(
            episode_id=self.episode_id,
            step=self.step,
            action=self.episode.actions[self.step],
            token_ids=self.episode.token_ids[self.step],
            log_probabilities=self.episode.log_probabilities[self.step],
            policy_version=VERSION,
            stamp=stamp,
            frame="base",
        )
        self.publish("action", message)
        self.step += 1


class Stack:
    """The services that the episode manager calls; the attributes say how they behave."""

    def __init__(self, node: Any, sensors: Sensors) -> None:
        self.sensors = sensors
        self.behave()
        self.max_steps = 0
        self.armed = False
        self.said = SafetyState(state=SafetyState.DISARMED)
        for key, handler in {
            "set_policy_task": self.set_policy_task,
            "set_armed": self.set_armed,
            "reset_scene": self.reset_scene,
            "judge_episode": self.judge,
        }.items():
            base.service(node, key, handler)
        node.create_timer(0.02, self.supervise)
        node.create_timer(0.1, self.repeat_safety)  # as the arm does: silence would mean that it has died

    def behave(self) -> None:
        """Forget all misbehaviour and all calls."""
        self.calls: list[str] = []
        self.sensors.step = 0
        self.succeed_at = 10**9  # judge: success from this step on
        self.stop_at = 10**9  # arm: stops by itself at this step
        self.mute_at = 10**9  # policy: sends nothing from this step on
        self.reset_message = ""  # scene: refuse resets with this message

    def set_policy_task(self, request: Any, response: Any) -> Any:
        self.calls.append(f"policy {'on' if request.active else 'off'}")
        sensors = self.sensors
        sensors.acting, sensors.episode_id, self.max_steps = (
            request.active,
            request.episode_id,
            request.max_steps,
        )
        if request.active:
            sensors.step = 0
        response.success, response.policy_version = True, VERSION
        return response

    def set_armed(self, request: Any, response: Any) -> Any:
        self.calls.append("arm" if request.armed else "disarm")
        self.armed = request.armed
        self.say_safety("")
        response.success = True
        return response

    def reset_scene(self, request: Any, response: Any) -> Any:
        self.calls.append("reset")
        response.success, response.message = not self.reset_message, self.reset_message
        response.initial_state_id, response.instruction = request.initial_state_id, "put it there"
        return response

    def judge(self, request: Any, response: Any) -> Any:
        self.calls.append("judge")
        response.success = response.grasped = self.sensors.step >= self.succeed_at
        return response

    def supervise(self) -> None:
        step = self.sensors.step
        if step >= min(self.mute_at, self.max_steps or ACTIONS):
            self.sensors.acting = False
        if self.armed and step >= self.stop_at:
            self.armed = False
            self.say_safety("the workspace ends here")

    def say_safety(self, message: str) -> None:
        idle = SafetyState.STOPPED if message else SafetyState.DISARMED
        state = SafetyState.ARMED if self.armed else idle
        self.said = SafetyState(state=state, message=message)
        self.repeat_safety()

    def repeat_safety(self) -> None:
        self.sensors.publishers["safety_state"].publish(self.said)


class Graph:
    """Node processes under test and one node of this process."""

    def __init__(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node("test")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.processes: list[subprocess.Popen[str]] = []

    def launch(self, module: str, **parameters: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"grape_policy.nodes.{module}", "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        self.processes.append(process)
        return process

    def spin(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def spin_until(self, condition: Any, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not condition():
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def wait(self, future: Any, seconds: float = 20.0) -> Any:
        assert self.spin_until(future.done, seconds), "no answer in time"
        return future.result()

    def call(self, key: str, **fields: Any) -> Any:
        client = base.client(self.node, key)
        assert self.spin_until(client.service_is_ready, 20.0), f"{key} is not served"
        return self.wait(client.call_async(client.srv_type.Request(**fields)))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes:
            print(process.communicate(timeout=15)[1])  # shown by pytest when the test fails
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def folders(root: Path) -> list[str]:
    """Return the names of all episode folders, finished or not."""
    return sorted(path.name for path in root.iterdir() if path.is_dir())
