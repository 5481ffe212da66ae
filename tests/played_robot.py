"""A robot of a collection test: writes real episodes, and misbehaves as a script says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from episode_factory import make_episode
from grape_episodes.catalogue import Catalogue
from grape_episodes.manifest import new_episode_id, read_manifest
from grape_episodes.writer import write_episode
from grape_policy.collection.robot import Run
from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.scene import View

VERSION = "test-0123abcd"
OK: dict[str, Any] = {"outcome": "success", "success": True}
FROZEN: dict[str, Any] = {
    "outcome": "stopped",
    "success": False,
    "stop_reason": "IMAGE_FROZEN",
    "reason": "the arm moves, but the image does not",
}


class PlayedRobot:
    """Every call is noted in ``calls``; ``script`` holds what the next runs do, then all go well."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []
        self.script: list[dict[str, Any] | Exception | Run] = []
        self.version, self.missing, self.stopped = VERSION, "", False
        self.confirms = True
        self.on_run: Callable[[Rollout], None] = lambda rollout: None

    def ready(self, seconds: float) -> str:
        return self.missing

    def policy_version(self) -> str:
        return self.version

    def emergency_stopped(self) -> bool:
        return self.stopped

    def reset(self, rollout: Rollout) -> None:
        self.calls.append("reset")

    def scatter(self, seed: int) -> None:
        self.calls.append("scatter")

    def home(self) -> None:
        self.calls.append("home")

    def ask(self, text: str, seconds: float) -> bool:
        self.calls.append(f"ask: {text}")
        return self.confirms

    def look(self) -> View:
        self.calls.append("look")
        grey = np.zeros((4, 4, 3), np.uint8)
        depth = grey[:, :, 0].astype(np.uint16)
        return View(grey, depth, (), np.zeros(0), np.zeros(3), np.zeros(4), np.eye(3))

    def run(
        self, rollout: Rollout, instruction: str, max_steps: int, temperature: float, keep_scene: bool
    ) -> Run:
        self.calls.append(f"run {rollout.task}: {instruction}")
        self.on_run(rollout)
        step = self.script.pop(0) if self.script else OK
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Run):
            return step
        return self.record(rollout, instruction, temperature, **step)

    def record(self, rollout: Rollout, words: str, temperature: float, **changes: Any) -> Run:
        """Write an episode as the recorder does, and list it."""
        fields = {
            "episode_id": new_episode_id(rollout.initial_state_id),
            "task": rollout.task,
            "instruction": words or "put it there",
            "initial_state_id": rollout.initial_state_id,
            "temperature": temperature,
            "source": "ros",
        }
        steps = changes.pop("steps", 4)
        episode = make_episode(steps, **(fields | changes))
        manifest = dataclasses.replace(episode.manifest, seed=rollout.seed)
        folder = write_episode(self.root, dataclasses.replace(episode, manifest=manifest))
        manifest = read_manifest(folder)
        Catalogue(self.root / "catalogue.sqlite").add(manifest, folder)
        return Run(manifest.episode_id, manifest.outcome, manifest.stop_reason, manifest.reason)
