"""The live status page of a collection: one static HTML file, and the same as JSON, rewritten as a whole."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from grape_episodes.stop_reasons import MEANINGS, StopReason
from jinja2 import Environment, PackageLoader, StrictUndefined

from grape_policy.collection.journal import Attempt, Journal
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.task_list import TaskList

PAGE_NAME, JSON_NAME = "status.html", "status.json"
LAST_IMAGES, LAST_ATTEMPTS = 6, 12
REFRESH_SECONDS = 5
RECENT = 20  # attempts that the estimate of the end goes by


class StatusPage:
    """Shows the journal, the phase and the last images of one collection."""

    def __init__(self, folder: Path, wanted: TaskList, journal: Journal) -> None:
        self.path = folder / PAGE_NAME
        self._wanted, self._journal = wanted, journal
        self._plan = wanted.plan()
        self._current: Rollout | None = None
        self._images: deque[str] = deque(maxlen=LAST_IMAGES)
        self._phase, self._version = "starting", ""
        loader = PackageLoader("grape_policy", "collection")
        environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._template = environment.get_template("status.html")

    def begin(self, rollout: Rollout) -> None:
        """Name the rollout that is worked on."""
        self._current = rollout

    def show(self, phase: str, version: str) -> None:
        """Say what is being done, with which policy."""
        self._phase, self._version = phase, version
        self.write()

    def note(self, image: np.ndarray | None) -> None:
        """Take in the last image (H, W, 3) uint8 RGB of the newest attempt, if it has one."""
        if image is not None:
            self._images.appendleft(_data_uri(image))
        self.write()

    def write(self) -> None:
        """Rewrite both files; a reader sees the old page or the new one."""
        facts = self.facts()
        _replace(self.path.with_name(JSON_NAME), json.dumps(facts, indent=2) + "\n")
        _replace(self.path, self._template.render(facts | {"images": self._images}))

    def facts(self) -> dict[str, Any]:
        """Return everything the page shows but the images."""
        accepted, failures = (
            self._journal.accepted(self._version),
            self._journal.failures(self._version),
        )
        done = [accepted[r] for r in self._plan if r in accepted]
        given_up = sum(r not in accepted and failures[r] > self._wanted.retries for r in self._plan)
        left = len(self._plan) - len(done) - given_up
        return {
            "name": self._wanted.name,
            "refresh": REFRESH_SECONDS,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "phase": self._phase,
            "policy_version": self._version,
            "planned": len(self._plan),
            "done": len(done),
            "successes": sum(attempt.success for attempt in done),
            "given_up": given_up,
            "set_aside": sum(failures.values()),
            "current": vars(self._current) if self._current else None,
            "running_hours": round(self._journal.seconds() / 3600, 3),
            "ends": self._estimated_end(left),
            "stops": self._stops(),
            "tasks": [self._task_row(task.task, accepted) for task in self._wanted.tasks],
            "attempts": [vars(a) for a in reversed(self._journal.attempts[-LAST_ATTEMPTS:])],
        }

    def _estimated_end(self, left: int) -> str | None:
        """Return when the list will be done at the recent pace, failed attempts included; None: no idea."""
        recent = self._journal.attempts[-RECENT:]
        kept = sum(attempt.accepted for attempt in recent)
        if not kept or not left:
            return None
        seconds = sum(attempt.seconds for attempt in recent) / kept * left
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        return end.astimezone().isoformat(timespec="minutes")

    def _stops(self) -> list[dict[str, Any]]:
        counts = Counter(attempt.stop_reason for attempt in self._journal.attempts if attempt.stop_reason)
        rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"reason": r, "count": n, "meaning": MEANINGS[StopReason(r)]} for r, n in rows]

    def _task_row(self, task: str, accepted: dict[Rollout, Attempt]) -> dict[str, Any]:
        plan = [rollout for rollout in self._plan if rollout.task == task]
        done = [accepted[rollout] for rollout in plan if rollout in accepted]
        successes = sum(attempt.success for attempt in done)
        return {"task": task, "planned": len(plan), "done": len(done), "successes": successes}


def _data_uri(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _replace(path: Path, text: str) -> None:
    """Write a file atomically; not synced, since it is rewritten all the time."""
    part = path.with_name(path.name + ".tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
