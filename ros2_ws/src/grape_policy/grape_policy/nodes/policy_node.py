"""Policy node: the latest image in; one action with tokens, log-probabilities and version out, at 5 Hz.

Its services appear when the checkpoint is loaded and warm. Inference runs in its own thread and loading in
another, so that neither holds up images, tasks or actions.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from grape_episodes import contract
from grape_msgs.msg import ActionDelta
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from grape_policy.nodes import base
from grape_policy.nodes.messages import MessageError, from_image, to_nanoseconds, to_stamp
from grape_policy.nodes.parameters import Parameter
from grape_policy.nodes.peers import Peers
from grape_policy.nodes.priority import run_preferred
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.loop import PolicyLoop, PolicyStep, PolicyTask, Timing
from grape_policy.vla.runtime import PRECISIONS, Runtime

PARAMETERS = (
    Parameter("checkpoint", "checkpoints/grape-small", "Checkpoint or adapter folder to start with."),
    Parameter("registry", "runs/registry", "Registry of versions; its current one is loaded on request."),
    Parameter("statistics_key", "", "Action statistics to use; needed where a checkpoint holds several."),
    Parameter("device", "cpu", "Where the policy computes: cpu, cuda or cuda:<number>."),
    Parameter("precision", "float32", f"Of the weights: {', '.join(PRECISIONS)} (4bit: decoder blocks)."),
    Parameter("compile", "none", "What torch.compile speeds up: none, or vision (towers and projector)."),
    Parameter("image_timeout", 0.5, "No action from an image older than this.", 0.05, 5.0, "s"),
    Parameter("deadline", 0.15, "An inference that takes longer is reported.", 0.001, 5.0, "s"),
)


def resolve_checkpoint(name: str, registry: Path) -> Path:
    """Return the folder ``name``, or the registry's current version when ``name`` is empty.

    Raises:
        ValueError: the registry has no current version, or its pointer is damaged.
    """
    if name:
        return Path(name).expanduser()
    pointer = registry / "current.json"
    try:
        version = json.loads(pointer.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no current version in {pointer}: {error}; name a checkpoint folder") from error
    if not isinstance(version, str) or Path(version).name != version:
        raise ValueError(f"{pointer} holds no version name; promote a version again")
    return registry / "versions" / version


class PolicyNode(base.ManagedNode):
    """Hands images and tasks to the acting loop and publishes its actions."""

    def __init__(self) -> None:
        super().__init__("policy", PARAMETERS)
        self._registry = Path(self.parameters.registry).expanduser()
        self._frame = str(contract.document()["frames"]["base"])

    def configure(self) -> None:
        """Load the checkpoint and warm it up, so that the first action is as quick as the others."""
        torch.set_num_threads(1)
        policy = self._policy = self._read(resolve_checkpoint(self.parameters.checkpoint, self._registry))
        seconds = policy.warm_up(contract.camera().height, contract.camera().width)
        self.get_logger().info(f"{policy.version} is loaded; one action takes {seconds * 1e3:.0f} ms")

    def activate(self) -> None:
        """Take images and tasks."""
        self._actions = base.publisher(self, "action")
        self._diagnostics = base.publisher(self, "diagnostics")
        self._loop = PolicyLoop(
            self._policy, self._publish, self._warn, self._now_ns, self._timing(), self._read
        )
        base.subscription(self, "color_image", self._on_image)
        base.service(self, "set_policy_task", self._on_set_task)
        self.create_timer(1.0, self._publish_diagnostics)
        base.heartbeat(self, "policy")
        Peers(self, ("episode_manager",), self._on_lost)
        self._loader = _Loader(self)

    def deactivate(self) -> None:
        """Stop acting: no action is published after this. What was loaded meanwhile acts next time."""
        self._loader.close()
        self._loop.close()
        self._policy = self._loop.policy

    def cleanup(self) -> None:
        """Let go of the weights."""
        del self._policy, self._loop

    def _on_lost(self, name: str) -> None:
        """Stop acting when nobody watches the episode any more."""
        self._warn(f"the {name} node has ended or hangs; no more actions")
        self._loop.stop_task()

    def load(self, name: str) -> tuple[bool, str, str]:
        """Load a folder (empty: the registry's current version); return success, message, version."""
        try:
            version = self._loop.load(resolve_checkpoint(name, self._registry))
        except (CheckpointError, ValueError, OSError) as error:
            self.get_logger().error(f"{self._loop.version} goes on; not loaded: {error}")
            return False, f"not loaded, {self._loop.version} goes on: {error}", self._loop.version
        self.get_logger().info(f"{version} acts from now on")
        return True, f"{version} acts from now on", version

    def _read(self, folder: Path) -> VlaPolicy:
        """Load a policy as the parameters say; raises ``CheckpointError`` or ``ValueError``."""
        chosen = self.parameters
        if chosen.compile not in ("none", "vision"):
            raise ValueError(f"compile = {chosen.compile!r}: use none or vision")
        runtime = Runtime(chosen.device, chosen.precision, compile=chosen.compile == "vision")
        return VlaPolicy.from_checkpoint(folder, None, chosen.statistics_key or None, runtime)

    def _timing(self) -> Timing:
        control = contract.document()["control"]
        return Timing(
            float(control["period_seconds"]),
            float(control["interpolation_seconds"]),
            self.parameters.image_timeout,
            self.parameters.deadline,
        )

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _on_image(self, message: Any) -> None:
        try:
            pixels = from_image(message)
        except MessageError as error:
            self._warn(f"image dropped: {error}")
            return
        if message.encoding != "rgb8":
            self._warn(f"image dropped: encoding {message.encoding!r}, the policy needs rgb8")
            return
        self._loop.offer_image(to_nanoseconds(message.header.stamp), pixels)

    def _on_set_task(self, request: Any, response: Any) -> Any:
        response.policy_version = self._loop.version
        if not request.active:
            self._loop.stop_task()
            response.success, response.message = True, "stopped"
            return response
        task = PolicyTask(
            request.episode_id,
            request.instruction,
            float(request.temperature),
            int(request.seed),
            int(request.max_steps),
        )
        try:
            self._loop.start_task(task)
            response.success, response.message = True, f"acting on {task.instruction!r}"
        except ValueError as error:
            response.success, response.message = False, str(error)
        return response

    def _publish(self, step: PolicyStep) -> None:
        message = ActionDelta(episode_id=step.task.episode_id, step=step.step, policy_version=step.version)
        message.header.stamp, message.header.frame_id = to_stamp(self._now_ns()), self._frame
        message.observation_stamp = to_stamp(step.observation_stamp_ns)
        message.action = step.action
        message.token_ids = step.token_ids.tolist()
        message.log_probabilities = step.log_probabilities.tolist()
        message.inference_seconds = float(step.seconds)
        self._actions.publish(message)

    def _publish_diagnostics(self) -> None:
        seconds = np.array(self._loop.seconds or [0.0]) * 1e3
        missed = self._loop.missed_deadlines
        values = {
            "policy_version": self._loop.version,
            **self._loop.timer.report().values(),
            "inference_p50_ms": f"{np.percentile(seconds, 50):.1f}",
            "inference_p95_ms": f"{np.percentile(seconds, 95):.1f}",
            "missed_deadlines": str(missed),
        }
        entry = DiagnosticStatus(
            level=DiagnosticStatus.WARN if missed else DiagnosticStatus.OK,
            name="grape/policy",
            message=f"{missed} inferences missed the deadline" if missed else "in time",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[entry])
        array.header.stamp = to_stamp(self._now_ns())
        self._diagnostics.publish(array)


class _Loader:
    """Serves ``load_policy`` from a second node with its own executor and thread: loading takes its time."""

    def __init__(self, owner: PolicyNode) -> None:
        self._owner = owner
        self._node = Node("policy_loader", use_global_arguments=False)
        base.service(self._node, "load_policy", self._on_load)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, name="policy loader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread (a load that is under way ends first) and the node."""
        self._stopping = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=base.POLL_SECONDS)

    def _on_load(self, request: Any, response: Any) -> Any:
        response.success, response.message, response.policy_version = self._owner.load(request.checkpoint)
        return response


def main(arguments: list[str] | None = None) -> int:
    """Run the policy node until it is stopped."""
    run_preferred()
    return base.spin(PolicyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
