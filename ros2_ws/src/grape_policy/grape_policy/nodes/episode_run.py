"""One episode from reset to verdict: the sequence that the episode manager runs.

Whatever happens on the way, the policy is stopped, the arm disarmed and the recording closed, and the first
reason for the end is the one recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from grape_episodes.manifest import new_episode_id
from grape_episodes.stop_reasons import StopReason
from grape_msgs.msg import EpisodeEvent, SafetyState

from grape_policy.arm.safety import Reason
from grape_policy.nodes.messages import to_stamp
from grape_policy.nodes.waiting import ServiceError, Services, Waiter

ARMED_SECONDS = 2.0  # the safety state follows the answer of set_armed at once


@dataclass(frozen=True)
class EpisodeRequest:
    """What to run; an empty instruction means the task's default, ``keep_scene`` that nothing is reset."""

    task: str
    initial_state_id: str
    instruction: str
    max_steps: int
    temperature: float
    seed: int
    keep_scene: bool = False


@dataclass(frozen=True)
class EpisodeResult:
    """How it went; ``path`` is empty when no recording was made."""

    episode_id: str
    path: str
    success: bool
    outcome: str
    reason: str
    steps: int
    stop_reason: str


@dataclass(frozen=True)
class RunLimits:
    """Time limits (s) of an episode and the steps between two looks of the judge, if there is one."""

    stall_seconds: float
    settle_seconds: float
    judge_every: int
    judged: bool = True


class _Ended(Exception):
    """The episode was ended while it was being prepared."""


class EpisodeRun:
    """Runs one episode once; feed it every action and safety state that arrives meanwhile."""

    def __init__(
        self,
        request: EpisodeRequest,
        limits: RunLimits,
        services: Services,
        waiter: Waiter,
        publish_event: Callable[[EpisodeEvent], None],
        publish_feedback: Callable[[int, str], None],
    ) -> None:
        self.request = request
        self.episode_id = new_episode_id(request.initial_state_id)
        self._limits, self._services, self._waiter = limits, services, waiter
        self._publish_event, self._publish_feedback = publish_event, publish_feedback
        self._steps = 0
        self._arming = False  # from the request to arm on
        self._moving = False  # from the first ARMED to the end: leaving ARMED ends the episode
        self._recording = False
        self._policy_version = ""
        self._failed_at = StopReason.SERVICE_FAILED  # what a service that fails now would mean
        self._outcome, self._reason, self._stop_reason = "", "", StopReason.NONE
        self._path = ""

    @property
    def ended(self) -> bool:
        """Whether a reason for the end is known."""
        return bool(self._outcome)

    def end(self, outcome: str, reason: str, stop_reason: StopReason = StopReason.NONE) -> None:
        """End the episode; only the first call counts."""
        if not self.ended:
            self._outcome, self._reason, self._stop_reason = outcome, reason, stop_reason

    def on_action(self, message: Any) -> None:
        """Count the actions of this episode."""
        if message.episode_id == self.episode_id:
            self._steps = max(self._steps, int(message.step) + 1)

    def on_safety(self, message: SafetyState) -> None:
        """Follow the arm's safety state: once it was asked to arm, any stop ends the episode."""
        stopped = message.state in (SafetyState.STOPPED, SafetyState.EMERGENCY_STOPPED)
        if self._arming and message.state == SafetyState.ARMED:
            self._moving = True
        elif self._moving or (self._arming and stopped):
            reason = StopReason(Reason(message.reason).name if message.reason else "DISARMED_BY_REQUEST")
            self.end("stopped", message.message or "the arm is no longer armed", reason)

    async def run(self) -> EpisodeResult:
        """Run the episode to its end; never raises."""
        try:
            await self._prepare()
            await self._act()
        except _Ended:
            pass
        except ServiceError as error:
            self.end("aborted", str(error), self._failed_at)
        return await self._finish()

    async def _prepare(self) -> None:
        """Stop and disarm, reset, record, arm, start the policy: in this order nothing moves unrecorded."""
        request = self.request
        self._publish_feedback(0, "resetting")
        stopped = await self._demand("set_policy_task", active=False)
        self._policy_version = stopped.policy_version
        await self._demand("set_armed", armed=False)
        await self._prepare_scene()
        self._failed_at = StopReason.RECORDING_FAILED
        await self._record()
        self._failed_at = StopReason.SERVICE_FAILED
        self._arming = True
        await self._demand("set_armed", armed=True)
        if not await self._waiter.until(lambda: self._moving or self.ended, ARMED_SECONDS):
            raise ServiceError("the arm does not report that it is armed; look at the arm node's log")
        await self._demand(
            "set_policy_task", active=True, max_steps=request.max_steps, **self._policy_fields()
        )

    async def _prepare_scene(self) -> None:
        """Reset the scene; one that was prepared is only judged from here on, where anybody resets scenes."""
        request = self.request
        if request.keep_scene and not self._services.is_served("reset_scene"):
            return
        self._failed_at = StopReason.RESET_FAILED
        state = "" if request.keep_scene else request.initial_state_id
        reset = await self._demand("reset_scene", task=request.task, initial_state_id=state)
        if state and reset.initial_state_id != state:
            raise ServiceError(f"the scene is in {reset.initial_state_id!r}, not {state!r}")
        self.request = replace(request, instruction=request.instruction or reset.instruction)

    def _policy_fields(self) -> dict[str, Any]:
        request = self.request
        return {
            "episode_id": self.episode_id,
            "instruction": request.instruction,
            "temperature": request.temperature,
            "seed": request.seed,
        }

    async def _record(self) -> None:
        request = self.request
        self._recording = True  # also when the answer is late: then it has to be closed
        started = await self._demand(
            "start_recording",
            task=request.task,
            initial_state_id=request.initial_state_id,
            policy_version=self._policy_version,
            **self._policy_fields(),
        )
        self._path = started.path
        self._publish(EpisodeEvent.STARTED)

    async def _demand(self, key: str, **fields: Any) -> Any:
        """Call a service unless the episode was ended meanwhile."""
        if self.ended:
            raise _Ended
        return await self._services.demand(key, **fields)

    async def _act(self) -> None:
        """Watch the policy act until the judge, the step limit, the arm or the user ends it."""
        judge_at = self._limits.judge_every
        while not self.ended:
            if self._steps >= self.request.max_steps:
                self.end("failure", f"no success within {self.request.max_steps} steps")
            elif self._limits.judged and self._steps >= judge_at:
                judge_at = self._steps + self._limits.judge_every
                await self._judge_on_the_way()
            else:
                await self._next_action()
            self._publish_feedback(self._steps, "running")

    async def _next_action(self) -> None:
        """Wait until the policy has acted once more; end the episode when it does not."""
        seen, seconds = self._steps, self._limits.stall_seconds
        if not await self._waiter.until(lambda: self.ended or self._steps > seen, seconds):
            reason = f"the policy sent no action for {seconds:g} s"
            reason = f"{reason}; look at the policy node's log and the camera"
            self.end("aborted", reason, StopReason.POLICY_SILENT)

    async def _judge_on_the_way(self) -> None:
        verdict = await self._services.ask("judge_episode")
        if verdict.success:
            self.end("success", verdict.message or "the judge saw success")

    async def _finish(self) -> EpisodeResult:
        """Stop, disarm, judge and close the recording; a failure here does not keep the rest from running."""
        self._publish_feedback(self._steps, "judging")
        await self._try("set_policy_task", active=False)
        if self._arming:
            self._publish(EpisodeEvent.ACTING_ENDED)
        if self._outcome in ("success", "failure"):  # let the arm complete the last action
            await self._waiter.until(lambda: False, self._limits.settle_seconds)
        self._arming = self._moving = False
        await self._try("set_armed", armed=False)
        verdict = await self._try("judge_episode") if self._limits.judged else None
        success = self._outcome == "success" or bool(verdict is not None and verdict.success)
        if success and self._outcome == "failure":
            assert verdict is not None
            self._outcome, self._reason = "success", verdict.message or "the judge saw success"
        if self._recording:
            await self._close_recording(success, verdict)
        return EpisodeResult(
            self.episode_id, self._path, success, self._outcome, self._reason, self._steps, self._stop_reason
        )

    async def _close_recording(self, success: bool, verdict: Any) -> None:
        closed = await self._try(
            "stop_recording",
            success=success,
            grasped=bool(verdict is not None and verdict.grasped),
            collisions=int(verdict.collisions) if verdict is not None else 0,
            outcome=self._outcome,
            reason=self._reason,
            stop_reason=self._stop_reason,
        )
        if closed is None or not closed.success:
            self._path = ""
            if self._outcome != "aborted":  # else the first reason stays
                problem = closed.message if closed is not None else "the recorder does not answer"
                self._outcome, self._reason = "aborted", f"the recording could not be closed: {problem}"
                self._stop_reason = StopReason.RECORDING_FAILED
        else:
            self._path, self._steps = closed.path, int(closed.steps)
        aborted = self._outcome == "aborted"
        self._publish(EpisodeEvent.ABORTED if aborted else EpisodeEvent.FINISHED, success)

    async def _try(self, key: str, **fields: Any) -> Any:
        """Return a service's response, or None when there is none."""
        try:
            return await self._services.ask(key, **fields)
        except ServiceError as error:
            self.end("aborted", str(error), StopReason.SERVICE_FAILED)
            return None

    def _publish(self, event: int, success: bool = False) -> None:
        request = self.request
        self._publish_event(
            EpisodeEvent(
                stamp=to_stamp(time.time_ns()),
                event=event,
                episode_id=self.episode_id,
                task=request.task,
                instruction=request.instruction,
                initial_state_id=request.initial_state_id,
                policy_version=self._policy_version,
                success=success,
                reason=self._outcome,
                steps=self._steps,
            )
        )
