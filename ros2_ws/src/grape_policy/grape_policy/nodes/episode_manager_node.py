"""The episode manager: runs one episode, or collects rollouts from many initial states, one by one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from grape_episodes import contract
from grape_episodes.catalogue import Catalogue
from grape_episodes.stop_reasons import StopReason
from grape_episodes.types import EpisodeError
from grape_msgs.action import Collect, RunEpisode
from rclpy.action import CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from grape_policy.collection.rollouts import Rollout, find_completed, plan
from grape_policy.nodes import base
from grape_policy.nodes.episode_run import EpisodeRequest, EpisodeResult, EpisodeRun, RunLimits
from grape_policy.nodes.parameters import Parameter
from grape_policy.nodes.peers import PEER_RATE_HZ, Peers
from grape_policy.nodes.recorder_node import CATALOGUE_NAME
from grape_policy.nodes.waiting import ServiceError, Services, Waiter

PARAMETERS = (
    Parameter("episodes_folder", "runs/episodes", "the recorder's folder; its catalogue says what is done"),
    Parameter("service_timeout_seconds", 10.0, "limit of every service call", 0.1, 600.0, "s"),
    Parameter(
        "stall_seconds", 5.0, "abort an episode when the policy sends nothing for so long", 0.1, 600.0, "s"
    ),
    Parameter("settle_seconds", 0.3, "wait after the last action before disarming", 0.0, 10.0, "s"),
    Parameter("judge_every", 5, "steps between two looks of the judge", 1, 1000),
    Parameter("judge", "simulator", "Who serves the verdict: simulator or keypoints; none: nobody is asked."),
    Parameter("consecutive_aborts", 3, "give up a collection after so many aborted episodes", 1, 1000),
)
SERVICES = (
    "set_policy_task",
    "set_armed",
    "reset_scene",
    "start_recording",
    "stop_recording",
    "judge_episode",
)


class EpisodeManagerNode(base.ManagedNode):
    """Serves the actions run_episode and collect; one goal at a time, another one is rejected."""

    def __init__(self) -> None:
        super().__init__("episode_manager", PARAMETERS)

    def activate(self) -> None:
        """Find the other nodes' services and serve the actions."""
        values = self.parameters
        self._limits = RunLimits(
            values.stall_seconds, values.settle_seconds, values.judge_every, values.judge != "none"
        )
        self._catalogue_path = Path(values.episodes_folder).expanduser().absolute() / CATALOGUE_NAME
        group = ReentrantCallbackGroup()
        self._waiter = Waiter(self, group)
        self._stack = Services(self, SERVICES, self._waiter, group, values.service_timeout_seconds)
        self._events = base.publisher(self, "episode_event")
        base.subscription(self, "action", self._on_action)
        base.subscription(self, "action_started", self._on_action)  # of chunks, one by one
        base.subscription(self, "safety_state", self._on_safety)
        base.heartbeat(self, "episode_manager", PEER_RATE_HZ)
        self._peers = Peers(self, ("arm", "recorder"), self._on_lost)
        self._run: EpisodeRun | None = None
        self._busy = False
        self._cancel_reason = ""
        options = {
            "goal_callback": self._on_goal,
            "cancel_callback": self._on_cancel,
            "callback_group": group,
        }
        self._servers = [
            base.action_server(self, "run_episode", self._execute_run, **options),
            base.action_server(self, "collect", self._execute_collect, **options),
        ]

    def finished(self) -> bool:
        """End the running episode; return whether it is closed."""
        self._cancel("the episode manager was shut down")
        self._stack.timeout_seconds = 1.0  # the other nodes may be gone already
        return not self._busy

    def deactivate(self) -> None:
        """Serve no more goals."""
        for server in self._servers:
            server.destroy()

    def _on_goal(self, request: Any) -> GoalResponse:
        if self._busy:
            self.get_logger().warning("goal rejected: another one is running; cancel it or wait for its end")
            return GoalResponse.REJECT
        self._busy, self._cancel_reason = True, ""
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal: Any) -> CancelResponse:
        self._cancel("cancelled by request")
        return CancelResponse.ACCEPT

    def _cancel(self, reason: str) -> None:
        self._cancel_reason = self._cancel_reason or reason
        if self._run is not None:
            self._run.end("aborted", reason, StopReason.CANCELLED)
            self._waiter.poll()

    def _on_action(self, message: Any) -> None:
        if self._run is not None:
            self._run.on_action(message)
            self._waiter.poll()

    def _on_lost(self, name: str) -> None:
        """End an episode that a crashed node leaves without motion or without recording."""
        if self._run is not None:
            reason = f"the {name} node has ended or hangs; its log says why"
            self._run.end("aborted", reason, StopReason.HEARTBEAT_LOST)
            self._waiter.poll()

    def _on_safety(self, message: Any) -> None:
        self._peers.heard("arm")
        if self._run is not None:
            self._run.on_safety(message)
            self._waiter.poll()

    async def _execute_run(self, goal: Any) -> Any:
        def feedback(step: int, phase: str) -> None:
            goal.publish_feedback(RunEpisode.Feedback(step=step, phase=phase))

        try:
            request = goal.request
            names = [field.name for field in fields(EpisodeRequest)]
            wanted = EpisodeRequest(**{name: getattr(request, name) for name in names})
            result = await self._episode(wanted, feedback)
        finally:
            self._busy = False
        _close_goal(goal, result.outcome != "aborted")
        return RunEpisode.Result(**vars(result))

    async def _episode(self, request: EpisodeRequest, feedback: Any) -> EpisodeResult:
        if request.max_steps == 0:
            request = replace(request, max_steps=int(contract.document()["control"]["max_steps"]))
        publish = self._events.publish
        run = self._run = EpisodeRun(request, self._limits, self._stack, self._waiter, publish, feedback)
        if self._cancel_reason:
            run.end("aborted", self._cancel_reason, StopReason.CANCELLED)
        try:
            result = await run.run()
        finally:
            self._run = None
        text = f"{result.episode_id}: {result.outcome} after {result.steps} steps: {result.reason}"
        self.get_logger().info(text)
        return result

    async def _execute_collect(self, goal: Any) -> Any:
        request, result = goal.request, Collect.Result()
        try:
            rollouts = plan(request.tasks, request.initial_state_ids, request.rollouts, request.seed)
            await self._collect(goal, rollouts, result)
        except (ValueError, EpisodeError, ServiceError) as error:
            result.message = str(error)
        finally:
            self._busy = False
        result.episodes = len(result.episode_ids)
        _close_goal(goal, not result.message)
        return result

    async def _collect(self, goal: Any, rollouts: list[Rollout], result: Any) -> None:
        """Run what is not in the catalogue yet; fill in the result as it goes.

        Raises:
            ServiceError: The collection cannot go on.
        """
        request = goal.request
        version = (await self._stack.demand("set_policy_task", active=False)).policy_version
        entries = Catalogue(self._catalogue_path).episodes(policy_version=version)
        completed = find_completed(rollouts, entries, version, request.temperature)
        result.episode_ids = [entry.episode_id for entry in completed.values()]
        result.successes = sum(entry.success for entry in completed.values())
        aborts = 0
        for rollout in rollouts:
            if rollout in completed:
                continue
            episode = await self._episode(
                EpisodeRequest(
                    rollout.task,
                    rollout.initial_state_id,
                    "",
                    request.max_steps,
                    request.temperature,
                    rollout.seed,
                ),
                lambda step, phase: None,
            )
            if self._cancel_reason:
                raise ServiceError(self._cancel_reason)
            aborts = aborts + 1 if episode.outcome == "aborted" else 0
            if aborts >= self.parameters.consecutive_aborts:
                raise ServiceError(
                    f"{aborts} episodes in a row were aborted, the last one because {episode.reason}"
                )
            if episode.outcome != "aborted":
                result.episode_ids = [*result.episode_ids, episode.episode_id]
                result.successes += episode.success
            goal.publish_feedback(
                Collect.Feedback(
                    done=len(result.episode_ids),
                    total=len(rollouts),
                    episode_id=episode.episode_id,
                    outcome=episode.outcome,
                    success=episode.success,
                )
            )


def _close_goal(goal: Any, succeeded: bool) -> None:
    """Give the goal its final state."""
    if goal.is_cancel_requested:
        goal.canceled()
    elif succeeded:
        goal.succeed()
    else:
        goal.abort()


def main() -> int:
    """Run the episode manager node."""
    return base.spin(EpisodeManagerNode)


if __name__ == "__main__":
    raise SystemExit(main())
