"""Measures the running graph from camera to joint: overhead, first motion, jitter and processor time.

``measure`` starts the simulated graph on a free domain and acts for some seconds, without and with recording.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from grape_episodes import contract

from grape_policy.domain import reserved_domain
from grape_policy.nodes import base
from grape_policy.nodes.messages import to_nanoseconds
from grape_policy.stack import Value
from grape_policy.supervisor import RunningStack, running_stack

STATE = "carrot_on_plate/collect/0000"
INSTRUCTION = "put the carrot on the plate"
SERVICE_SECONDS = 30.0
MOVED = 1e-5  # rad between two joint commands
WARM_UP_ACTIONS = 3


class LoopBench:
    """A client that drives one task by services and keeps the stamps of what it hears."""

    def __init__(self) -> None:
        rclpy.init()
        self._node = rclpy.create_node("loop_bench")
        self.actions: list[Any] = []
        self.commands: list[tuple[int, np.ndarray]] = []
        self.diagnostics: dict[str, dict[str, str]] = {}  # the newest values of each entry
        base.subscription(self._node, "action", self.actions.append)
        base.subscription(self._node, "joint_command", self._on_command)
        self.stop = "no stop"  # what the arm said when it stopped by itself
        base.subscription(self._node, "safety_state", self._on_safety)
        base.subscription(self._node, "diagnostics", self._on_diagnostics)

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        rclpy.try_shutdown()

    def act(self, seconds: float, record: bool) -> None:
        """Reset, arm and let the policy act for ``seconds``, as one recorded episode when asked.

        Raises:
            RuntimeError: a service refused or did not answer.
        """
        episode = {"episode_id": f"loop-bench-{time.time_ns()}", "instruction": INSTRUCTION}
        task = STATE.partition("/")[0]
        self.call("set_armed", armed=False)
        self.call("reset_scene", task=task, initial_state_id=STATE)
        if record:
            self.call("start_recording", task=task, initial_state_id=STATE, policy_version="bench", **episode)
        self.call("set_armed", armed=True)
        self.call("set_policy_task", active=True, **episode)
        self.actions.clear()
        self.commands.clear()
        self.spin(seconds)
        self.call("set_policy_task", active=False)
        self.call("set_armed", armed=False)
        if record:
            self.call("stop_recording", outcome="failure", reason="measured, not judged")

    def call(self, key: str, **fields: Any) -> Any:
        """Call a service and return its answer; raises ``RuntimeError`` when it refuses or is not there."""
        client = base.client(self._node, key)
        try:
            if not client.wait_for_service(SERVICE_SECONDS):
                raise RuntimeError(f"the service {key} does not answer; is the whole graph running?")
            future = client.call_async(client.srv_type.Request(**fields))
            self._until(future.done, SERVICE_SECONDS)
            if not future.done() or not future.result().success:
                reason = future.result().message if future.done() else "no answer"
                raise RuntimeError(f"{key} was refused: {reason}")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def spin(self, seconds: float) -> None:
        """Receive for a while."""
        self._until(lambda: False, seconds)

    def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(self._node, timeout_sec=0.05)

    def _on_command(self, message: Any) -> None:
        self.commands.append((to_nanoseconds(message.header.stamp), np.array(message.position[:6])))

    def _on_safety(self, message: Any) -> None:
        if message.state == message.STOPPED:
            self.stop = message.message

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {pair.key: pair.value for pair in status.values}


def overheads_ms(actions: Sequence[Any]) -> np.ndarray:
    """Return, for each action, the ms from its image's stamp to its publication, less the model's time."""
    stamps = [to_nanoseconds(a.header.stamp) - to_nanoseconds(a.observation_stamp) for a in actions]
    return np.array(stamps) / 1e6 - 1e3 * np.array([a.inference_seconds for a in actions])


def first_motions_ms(action_ns: Sequence[int], commands: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return, for each action that found the arm at rest, the ms until the first joint command that moves."""
    found = []
    times = np.array([stamp for stamp, _ in commands])
    moves = np.array([np.abs(b - a).max() for (_, a), (_, b) in itertools.pairwise(commands)])
    for stamp in action_ns:
        after = int(np.searchsorted(times, stamp))
        if after < 2 or moves[after - 2] > MOVED:
            continue  # still moving: nobody could tell whose motion it is
        moving = np.flatnonzero(moves[after - 1 :] > MOVED)
        if len(moving):
            found.append((times[after + moving[0]] - stamp) / 1e6)
    return np.array(found)


def summary(bench: LoopBench, cpu: dict[str, float]) -> dict[str, Any]:
    """Return the figures of what the bench has heard.

    Raises:
        RuntimeError: too few actions or no motion, so that nothing can be said.
    """
    actions = bench.actions[WARM_UP_ACTIONS:]
    motions = first_motions_ms([to_nanoseconds(a.header.stamp) for a in actions], bench.commands)
    if len(actions) < 5 or len(motions) < 3:
        found = f"only {len(actions)} actions and {len(motions)} first motions; the arm says: {bench.stop}"
        raise RuntimeError(f"{found}; act for longer, or on a machine with less other work")
    arm, sim = bench.diagnostics.get("grape/arm", {}), bench.diagnostics.get("grape/sim", {})
    overheads, intervals = overheads_ms(actions), np.diff([to_nanoseconds(a.header.stamp) for a in actions])
    return {
        "actions": len(actions),
        "control_hz": 1e9 / float(intervals.mean()),
        "overhead_p50_ms": float(np.percentile(overheads, 50)),
        "overhead_p99_ms": float(np.percentile(overheads, 99)),
        "model_p50_ms": 1e3 * float(np.median([a.inference_seconds for a in actions])),
        "action_to_motion_p50_ms": float(np.percentile(motions, 50)),
        "action_to_motion_p99_ms": float(np.percentile(motions, 99)),
        "longest_interval_ms": float(intervals.max()) / 1e6,
        "image_delay_p99_ms": float(sim.get("image_delay_p99_ms", "nan")),
        "controller_jitter_p99_ms": float(arm.get("jitter_p99_ms", "nan")),
        "controller_work_p99_ms": float(arm.get("work_p99_ms", "nan")),
        "controller_scheduling": arm.get("scheduling", ""),
        "cpu_cores": cpu,
    }


@contextmanager
def processor_time(pids: dict[str, int]) -> Iterator[dict[str, float]]:
    """Fill the yielded dict, at the end of the block, with the cores that each process kept busy."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before, start = {name: _seconds(process) for name, process in processes.items()}, time.monotonic()
    used: dict[str, float] = {}
    yield used
    span = time.monotonic() - start
    used.update({name: (_seconds(process) - before[name]) / span for name, process in processes.items()})


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(checkpoint: Path, seconds: float, image_scale: int = 1) -> dict[str, Any]:
    """Run the simulated graph and return figures without (``recording_off``) and with recording.

    ``image_scale``: size of the camera's images, times the contract's.

    Raises:
        StackError, RuntimeError: the graph did not start, refused, or acted too little.
    """
    with tempfile.TemporaryDirectory() as folder, reserved_domain() as domain_id:
        arguments: dict[str, Value] = {
            "checkpoint": str(checkpoint),
            "episodes_folder": f"{folder}/episodes",
            "image_scale": image_scale,
        }
        with running_stack(arguments, domain_id, Path(folder) / "logs") as stack:
            return {"image": _image_size(image_scale), **_both(stack, seconds)}


def _image_size(scale: int) -> str:
    camera = contract.scaled_camera(scale)
    return f"{camera.width}x{camera.height}"


def _both(stack: RunningStack, seconds: float) -> dict[str, Any]:
    bench, results = LoopBench(), {}
    try:
        for name, record in (("recording_off", False), ("recording_on", True)):
            with processor_time(stack.pids()) as cpu:
                bench.act(seconds, record)
            results[name] = summary(bench, cpu)
    finally:
        bench.close()
    return results
