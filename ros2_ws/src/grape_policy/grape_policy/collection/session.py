"""One unattended collection: runs what the task list asks for and the journal lacks, whatever happens.

A rollout is done when its episode was read back and found in order. Everything that decides what happens next
is on disk, so that a restart after a kill goes on where it was: an episode that ended is looked at then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grape_episodes.catalogue import Catalogue, Entry
from grape_episodes.quarantine import FOLDER_NAME, quarantine, read_note
from grape_episodes.stop_reasons import StopReason

from grape_policy.collection import journal, limits
from grape_policy.collection.inspection import Finding, inspect
from grape_policy.collection.journal import Attempt, Journal
from grape_policy.collection.resetting import Resetter
from grape_policy.collection.robot import Robot, RobotError, Run
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.scene import REFERENCES_NAME, References
from grape_policy.collection.status import StatusPage
from grape_policy.collection.task_list import TaskList

FOLDER = "collections"  # below the episodes' folder: one folder per task list
CATALOGUE_NAME = "catalogue.sqlite"
LONGEST_BACK_OFF_SECONDS = 30.0  # between attempts that fail
WAIT_SECONDS = 5.0  # between two looks whether motion is allowed again
EPISODE_OVERHEAD_SECONDS = 30.0  # reset, start and end of an episode, at most
PERIOD_SECONDS = 0.2


@dataclass(frozen=True)
class Summary:
    """How a collection stands at its end; ``reason`` is empty when every rollout is done or given up."""

    planned: int
    done: int
    successes: int
    given_up: int
    reason: str


class Session:
    """Runs one task list against one robot. ``sleep`` and ``now`` (local time) are there for tests."""

    def __init__(
        self,
        robot: Robot,
        wanted: TaskList,
        root: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        say: Callable[[str], None] = print,
    ) -> None:
        self.wanted, self._robot, self._root = wanted, robot, root
        self._sleep, self._now, self._say = sleep, now, say
        folder = root / FOLDER / wanted.name
        self.journal = Journal(folder / journal.NAME, wanted.temperature)
        self.status = StatusPage(folder, wanted, self.journal)
        self._catalogue = Catalogue(root / CATALOGUE_NAME)
        references = References(folder / REFERENCES_NAME)
        self._resetter = Resetter(robot, wanted, references, self._show)
        self._plan = wanted.plan()
        self._version = ""
        self._since = time.monotonic()  # the last attempt in the journal
        self._failed_in_a_row = 0

    def run(self) -> Summary:
        """Run to the end of the list, or until a budget is used up or the robot is of no use.

        Raises:
            OSError, EpisodeError: The journal or the catalogue cannot be written.
        """
        reason = self._missing()
        while not reason:
            self._look_at_new_episodes()
            rollout = self._next()
            if rollout is None:
                break
            self._back_off()
            reason = self._hold()
            if not reason:
                self._attempt(rollout)
                reason = self._hopeless() or self._missing()
        return self._end(reason)

    def _missing(self) -> str:
        """Wait for the nodes; return what keeps them from working."""
        self._show("waiting for the nodes")
        until = time.monotonic() + self.wanted.limits.ready_seconds
        while True:
            missing = self._robot.ready(max(0.0, until - time.monotonic()))
            if missing:
                return missing
            try:
                version = self._robot.policy_version()
                break
            except RobotError as error:  # it went away just now
                if time.monotonic() > until:
                    return str(error)
        if self._version not in ("", version):
            return f"the policy was replaced by {version}; start the collection again to collect with it"
        self._version = version
        return ""

    def _back_off(self) -> None:
        """Wait longer and longer after failures in a row: a full disk must not use up all retries at once."""
        if self._failed_in_a_row > 1:
            self._show("waiting after failures")
            self._sleep(min(2.0 ** (self._failed_in_a_row - 2), LONGEST_BACK_OFF_SECONDS))

    def _hold(self) -> str:
        """Wait while motion is not allowed; return why the collection must end, or nothing."""
        while True:
            used_up = limits.exhausted(self.wanted.limits, self._root, self._running_seconds())
            if used_up:
                return used_up
            pause = self._pause()
            if not pause:
                return ""
            self._show(pause)
            self._sleep(WAIT_SECONDS)
            self._since += WAIT_SECONDS  # waiting is no running time

    def _pause(self) -> str:
        longest = self.wanted.max_steps * PERIOD_SECONDS + EPISODE_OVERHEAD_SECONDS
        quiet = limits.quiet_until(self._now(), self.wanted.limits.quiet_hours, timedelta(seconds=longest))
        if quiet is not None:
            return f"quiet hours until {quiet:%H:%M}"
        if self._robot.emergency_stopped():
            return "the emergency stop is engaged; clear it with: grape stop --clear"
        return ""

    def _running_seconds(self) -> float:
        return self.journal.seconds() + time.monotonic() - self._since

    def _next(self) -> Rollout | None:
        """Return the first rollout that is neither done nor given up."""
        done, failures = self._done(), self.journal.failures(self._version)
        open_ones = (r for r in self._plan if r not in done and failures[r] <= self.wanted.retries)
        return next(open_ones, None)

    def _done(self) -> dict[Rollout, Attempt]:
        """Return the rollouts whose kept episode is still there."""
        there = {entry.episode_id for entry in self._catalogue.episodes(policy_version=self._version)}
        accepted = self.journal.accepted(self._version)
        return {rollout: attempt for rollout, attempt in accepted.items() if attempt.episode_id in there}

    def _attempt(self, rollout: Rollout) -> None:
        """Reset, run, look at what came of it, and write down how it went."""
        self.status.begin(rollout)
        prepared = self._resetter.prepare(rollout)
        if not prepared.ready:
            message = f"gave up resetting: {prepared.message}"
            self._note_failure(rollout, Run("", "aborted", StopReason.INITIAL_STATE, message))
            return
        self._show("running")
        wanted, task = self.wanted, self.wanted.find(rollout.task)
        try:
            run = self._robot.run(
                rollout, task.forward, wanted.max_steps, wanted.temperature, prepared.in_place
            )
        except RobotError as error:
            run = Run("", "aborted", StopReason.SERVICE_FAILED, str(error))
        self._look_at_new_episodes()
        if not run.episode_id or self.journal.find(run.episode_id) is None:
            self._note_failure(rollout, run)

    def _look_at_new_episodes(self) -> None:
        """Keep or set aside every episode of this list that the journal does not know yet."""
        plan = set(self._plan)
        for entry in self._catalogue.episodes(policy_version=self._version):
            rollout = Rollout(entry.task, entry.initial_state_id, entry.seed)
            same = abs(entry.temperature - self.wanted.temperature) < 1e-6
            if rollout in plan and same and not self._settled(entry):
                self._look_at(entry, rollout)

    def _settled(self, entry: Entry) -> bool:
        """Whether the episode was kept; what is listed besides was left by a kill or a full disk."""
        known = self.journal.find(entry.episode_id)
        return known is not None and known.accepted and entry.folder.exists()

    def _look_at(self, entry: Entry, rollout: Rollout) -> None:
        finding = self._find_out(entry, rollout)
        if finding.odd and entry.folder.exists():
            quarantine(entry.folder, finding.odd, finding.message)
        known = self.journal.find(entry.episode_id)
        if known is None or known.accepted == bool(finding.odd):
            self._note(rollout, entry.episode_id, finding)
        if finding.odd:  # last: what the catalogue lists is looked at again after a kill
            self._catalogue.remove(entry.episode_id)

    def _find_out(self, entry: Entry, rollout: Rollout) -> Finding:
        moved = self._root / FOLDER_NAME / entry.episode_id
        if not entry.folder.exists() and moved.exists():
            note = read_note(moved)
            return Finding(StopReason(note["reason"]), note["message"])
        finding = inspect(entry.folder, rollout, self._version, self.wanted)
        if not finding.odd and rollout in self._done():
            return Finding(StopReason.DUPLICATE, "the rollout has an episode already")
        return finding

    def _note_failure(self, rollout: Rollout, run: Run) -> None:
        """Write down an attempt of which no episode is left to look at."""
        reason = StopReason(run.stop_reason or StopReason.SERVICE_FAILED)
        self._note(rollout, run.episode_id, Finding(reason, run.message))

    def _note(self, rollout: Rollout, episode_id: str, finding: Finding) -> None:
        now, since = time.monotonic(), self._since
        self._since = now
        attempt = Attempt(
            rollout.task,
            rollout.initial_state_id,
            rollout.seed,
            self._version,
            episode_id,
            accepted=not finding.odd,
            stop_reason=str(finding.odd or finding.stop_reason),
            message=finding.message,
            success=finding.success,
            steps=finding.steps,
            temperature=self.wanted.temperature,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=now - since,
        )
        self.journal.add(attempt)
        self._failed_in_a_row = 0 if attempt.accepted else self._failed_in_a_row + 1
        verdict = "kept" if attempt.accepted else f"set aside ({attempt.stop_reason})"
        self._say(f"{rollout.initial_state_id} seed {rollout.seed}: {verdict}: {attempt.message}")
        self.status.note(finding.image)

    def _hopeless(self) -> str:
        if self._failed_in_a_row < self.wanted.failures:
            return ""
        last = self.journal.attempts[-1]
        return f"{self._failed_in_a_row} attempts in a row failed, the last one: {last.message}"

    def _show(self, phase: str) -> None:
        self.status.show(phase, self._version)

    def _end(self, reason: str) -> Summary:
        done = self._done()
        failures = self.journal.failures(self._version)
        given_up = sum(r not in done and failures[r] > self.wanted.retries for r in self._plan)
        successes = sum(attempt.success for attempt in done.values())
        self._show(f"ended: {reason}" if reason else "finished")
        return Summary(len(self._plan), len(done), successes, given_up, reason)
