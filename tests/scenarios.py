"""What the whole stack with a mock arm must do; the same under ROS 2's launch and under our supervisor."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from grape_episodes.manifest import PART_SUFFIX, read_manifest
from probe import Probe

MANAGED = ("arm", "policy", "recorder", "episode_manager")
STATE = "carrot_on_plate/collect/0001"
SECONDS = 90.0  # for what needs a process to start, on a busy machine
REACH = 0.02  # of the policy: nothing puts the mock arm back between episodes
ATTEMPTS = 4  # an overloaded machine misses deadlines, and then the arm rightly stops


@dataclass(frozen=True)
class Graph:
    """A running stack: a node in it, its domain, its folder of episodes and a second checkpoint."""

    probe: Probe
    domain_id: int
    episodes: Path
    other_checkpoint: Path

    def pid(self, name: str) -> int:
        """Return the process id of the stack's node ``name``."""
        for process in psutil.process_iter():
            try:
                if f"__node:={name}" in process.cmdline() and self._is_ours(process):
                    return process.pid
            except psutil.Error:
                continue
        raise AssertionError(f"no process of the node {name}")

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.environ().get("ROS_DOMAIN_ID") == str(self.domain_id)

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)

    def state(self, name: str) -> str:
        """Return the life cycle's state of a node, or that it does not answer."""
        from lifecycle_msgs.srv import GetState

        client = self.probe.node.create_client(GetState, f"/{name}/get_state")
        future = None
        end = time.monotonic() + 3
        while time.monotonic() < end and not (future is not None and future.done()):
            if future is None and client.service_is_ready():
                future = client.call_async(GetState.Request())
            self.probe.spin(0.05)
        self.probe.node.destroy_client(client)
        return future.result().current_state.label if future is not None and future.done() else "no answer"

    def wait_until_active(self) -> None:
        end = time.monotonic() + SECONDS
        while states := {name: s for name in MANAGED if (s := self.state(name)) != "active"}:
            assert time.monotonic() < end, states

    def safety(self) -> Any:
        """Return the newest safety state, at most a moment old."""
        self.probe.received["safety_state"].clear()
        return self.probe.wait_for("safety_state", seconds=SECONDS)

    def closed(self, episode_id: str) -> list[Any]:
        """Return the manifest of an episode once it is closed; an open one says that it was cut off."""
        folder = self.episodes / episode_id
        return [read_manifest(folder)] if folder.is_dir() else []

    def open_episode(self) -> str:
        """Return the id of the one episode that is being recorded."""
        (part,) = self.episodes.glob(f"*{PART_SUFFIX}")
        return part.name.removesuffix(PART_SUFFIX)


class Episode:
    """One episode on its way, in which the policy has acted."""

    def __init__(self, graph: Graph, max_steps: int = 200) -> None:
        from grape_msgs.action import RunEpisode
        from grape_policy.nodes import base

        self._probe = graph.probe
        self._client = base.action_client(graph.probe.node, "run_episode")
        self._probe.found(self._client.server_is_ready, SECONDS, "episode manager")
        goal = RunEpisode.Goal(task=STATE.split("/")[0], initial_state_id=STATE, max_steps=max_steps)
        self._probe.received["action"].clear()
        sent = self._client.send_goal_async(goal)
        self._probe.until(sent.done, SECONDS, "answer to the goal")
        assert sent.result().accepted
        self._result = sent.result().get_result_async()
        acting = lambda: len(self._probe.received["action"]) >= 3 or self._result.done()  # noqa: E731
        self._probe.until(acting, SECONDS, "three actions")

    @property
    def over(self) -> bool:
        """Whether it has ended already."""
        return bool(self._result.done())

    def result(self) -> Any:
        self._probe.until(self._result.done, SECONDS, "the episode's result")
        self._client.destroy()
        return self._result.result().result


def acting_episode(graph: Graph) -> Episode:
    """Return an episode that acts; on an overloaded machine the first ones may have been stopped."""
    for _ in range(ATTEMPTS):
        episode = Episode(graph)
        if not episode.over:
            return episode
        reason = episode.result().reason
    raise AssertionError(reason)


def comes_up_disarmed(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState

    graph.wait_until_active()
    state = graph.safety()
    assert (state.state, state.reason) == (SafetyState.DISARMED, SafetyState.REASON_NOT_ARMED_YET)


def runs_an_episode(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState

    for _ in range(ATTEMPTS):
        result = Episode(graph, max_steps=5).result()
        if result.outcome != "stopped":
            break
    assert result.outcome == "failure", result.reason  # the judge never sees success
    manifest = read_manifest(Path(result.path))
    assert manifest.steps == result.steps == 5
    assert graph.safety().state == SafetyState.DISARMED


def stops_on_the_emergency_stop(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState
    from std_msgs.msg import Bool

    episode = acting_episode(graph)
    graph.probe.publish("emergency_stop", Bool(data=True))
    result = episode.result()
    assert result.outcome == "stopped"
    assert "emergency stop" in result.reason
    assert graph.safety().state == SafetyState.EMERGENCY_STOPPED
    assert not graph.probe.call("set_armed", armed=True).success
    assert graph.probe.call("emergency_stop", engage=False).success
    assert graph.safety().state == SafetyState.DISARMED


def stops_when_actions_cease(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState

    episode = acting_episode(graph)
    graph.probe.received["safety_state"].clear()
    graph.probe.call("set_policy_task", active=False)
    stopped = graph.probe.wait_for("safety_state", lambda m: m.state != SafetyState.ARMED)
    assert stopped.reason == SafetyState.REASON_STALE_COMMAND
    assert episode.result().outcome == "stopped"


def survives_a_killed_policy(graph: Graph) -> None:
    episode = acting_episode(graph)
    graph.kill("policy")
    result = episode.result()
    assert result.outcome == "stopped"
    assert "heartbeat of the policy" in result.reason
    _is_whole_again(graph)


def survives_a_killed_arm(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState

    episode = acting_episode(graph)
    graph.kill("arm")
    result = episode.result()
    assert result.outcome == "aborted"
    assert "the arm node has ended" in result.reason
    graph.wait_until_active()
    assert graph.safety().state == SafetyState.DISARMED  # nobody armed it
    _is_whole_again(graph)


def survives_a_killed_recorder(graph: Graph) -> None:
    episode = acting_episode(graph)
    graph.kill("recorder")
    result = episode.result()
    assert result.outcome == "aborted"
    assert "the recorder node has ended" in result.reason
    graph.wait_until_active()
    assert [m.outcome for m in graph.closed(result.episode_id)] == ["aborted"]
    _is_whole_again(graph)


def survives_a_killed_episode_manager(graph: Graph) -> None:
    from grape_msgs.msg import SafetyState

    acting_episode(graph)
    episode_id = graph.open_episode()
    graph.probe.received["safety_state"].clear()
    graph.kill("episode_manager")
    stopped = graph.probe.wait_for("safety_state", lambda m: m.state == SafetyState.STOPPED, SECONDS)
    assert stopped.reason == SafetyState.REASON_STALE_COMMAND, stopped.message
    graph.probe.until(lambda: bool(graph.closed(episode_id)), SECONDS, "the episode's end")
    (manifest,) = graph.closed(episode_id)
    assert manifest.outcome == "aborted"
    assert "the episode_manager node has ended" in manifest.reason
    _is_whole_again(graph)


def _is_whole_again(graph: Graph) -> None:
    graph.wait_until_active()
    runs_an_episode(graph)
    assert list(graph.episodes.glob("*.part")) == []


def switches_the_policy_while_it_acts(graph: Graph) -> None:
    episode = acting_episode(graph)
    before = graph.probe.received["action"][-1].policy_version
    loaded = graph.probe.call("load_policy", seconds=SECONDS, checkpoint=str(graph.other_checkpoint))
    assert loaded.success, loaded.message
    assert loaded.policy_version != before
    if not episode.over:
        switched = lambda m: m.policy_version == loaded.policy_version  # noqa: E731
        graph.probe.wait_for("action", switched, SECONDS)
    graph.probe.call("set_policy_task", active=False)
    episode.result()
    runs_an_episode(graph)
    assert graph.probe.received["action"][-1].policy_version == loaded.policy_version


SCENARIOS = (
    comes_up_disarmed,
    runs_an_episode,
    stops_on_the_emergency_stop,
    stops_when_actions_cease,
    switches_the_policy_while_it_acts,
    survives_a_killed_policy,
    survives_a_killed_arm,
    survives_a_killed_recorder,
    survives_a_killed_episode_manager,
)
