"""What a collection needs of a robot; the ROS graph offers it, and tests play it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from grape_policy.collection.rollouts import Rollout
from grape_policy.collection.scene import View


class RobotError(RuntimeError):
    """The robot did not do what it was asked; the message says what and what to look at."""


@dataclass(frozen=True)
class Run:
    """How one episode went; ``episode_id`` is empty when no goal was accepted."""

    episode_id: str
    outcome: str
    stop_reason: str
    message: str


class Robot(Protocol):
    """All calls block, with time limits, in the thread of the session.

    Raises:
        RobotError: From any method but ``ready`` and ``emergency_stopped``.
    """

    def ready(self, seconds: float) -> str:
        """Wait until everything a rollout needs answers; return what is missing, or nothing."""

    def policy_version(self) -> str:
        """Return the version of the loaded policy, which is told not to act."""

    def emergency_stopped(self) -> bool:
        """Whether the emergency stop is latched."""

    def reset(self, rollout: Rollout) -> None:
        """Let the simulator put the scene into the named state."""

    def scatter(self, seed: int) -> None:
        """Sweep the arm over the table so that the objects lie elsewhere, then home."""

    def home(self) -> None:
        """Move the arm to where episodes begin."""

    def ask(self, text: str, seconds: float) -> bool:
        """Ask a person to do something; return whether it was confirmed in time."""

    def look(self) -> View:
        """Return what is seen now."""

    def run(
        self, rollout: Rollout, instruction: str, max_steps: int, temperature: float, keep_scene: bool
    ) -> Run:
        """Run and record one episode."""
