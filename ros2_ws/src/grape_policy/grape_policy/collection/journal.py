"""What a collection has done, one JSON line per event, durable at once: what a restart goes by."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grape_policy.collection.rollouts import Rollout

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a rollout.

    Attributes:
        episode_id: empty when no episode came of it.
        stop_reason: a ``StopReason`` by name; why it ended early or was not kept.
        accepted: whether the episode is kept; an attempt that is not is made again.
        seconds: running time since the attempt before.
        message: the reason in words.
    """

    task: str
    initial_state_id: str
    seed: int
    policy_version: str
    episode_id: str
    accepted: bool
    stop_reason: str
    message: str
    success: bool
    steps: int
    temperature: float
    time: str
    seconds: float = 0.0

    @property
    def rollout(self) -> Rollout:
        """The rollout that was attempted."""
        return Rollout(self.task, self.initial_state_id, self.seed)


class Journal:
    """The attempts of one collection, in memory and on disk. One writer.

    Args:
        path: The file; created with the first attempt.
        temperature: Attempts at another temperature are other rollouts.

    Raises:
        OSError: From any method when the disk refuses.
        ValueError: A line before the last one is damaged.
    """

    def __init__(self, path: Path, temperature: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temperature = path, temperature
        self._cut_torn_line()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.attempts = [Attempt(**_parsed(line, path)) for line in lines]

    def add(self, attempt: Attempt) -> None:
        """Append one attempt; durable when this returns."""
        attempt = replace(attempt, seconds=round(attempt.seconds, 3))
        data = (json.dumps(asdict(attempt), ensure_ascii=False) + "\n").encode()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(handle, data) != len(data):
                raise OSError("the disk took only part of a line")
            os.fsync(handle)
        finally:
            os.close(handle)
        self.attempts.append(attempt)

    def find(self, episode_id: str) -> Attempt | None:
        """Return the latest line about an episode."""
        return next((a for a in reversed(self.attempts) if a.episode_id == episode_id), None)

    def accepted(self, policy_version: str) -> dict[Rollout, Attempt]:
        """Return the kept attempt of each rollout that has one of this policy."""
        return {a.rollout: a for a in self._of(policy_version) if a.accepted}

    def failures(self, policy_version: str) -> Counter[Rollout]:
        """Return how often each rollout was attempted in vain with this policy."""
        return Counter(a.rollout for a in self._of(policy_version) if not a.accepted)

    def _of(self, policy_version: str) -> list[Attempt]:
        wanted = (policy_version, self._temperature)
        return [a for a in self.attempts if (a.policy_version, a.temperature) == wanted]

    def seconds(self) -> float:
        """Return the running time of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)

    def _cut_torn_line(self) -> None:
        """A kill, or a full disk, may have left half a line at the end: that attempt was never confirmed."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(self._path, data.rfind(b"\n") + 1)


def _parsed(line: str, path: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        Attempt(**row)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); move it away to start the list anew") from None
    return row
