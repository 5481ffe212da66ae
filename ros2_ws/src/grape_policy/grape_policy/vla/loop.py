"""The acting loop: one thread that turns the latest image into the next action while a task is active.

No ROS here: images come in through ``offer_image`` and actions go out through a callback. The thread owns the
policy, so that a slow inference never delays a callback, and a new policy takes over between two actions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from grape_policy.loop_timer import LoopTimer
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.inference import VlaPolicy

CHECK_INSTRUCTION = "put the carrot on the plate"  # used while no task has been seen
OBSERVATIONS = 5  # kept of what was acted on, to try a new policy on


@dataclass(frozen=True)
class PolicyTask:
    """What to do: instruction, temperature (0: greedy) and how many actions at most (0: no limit)."""

    episode_id: str
    instruction: str
    temperature: float
    seed: int
    max_steps: int


@dataclass(frozen=True)
class PolicyStep:
    """One action and everything needed to train on exactly what ran."""

    task: PolicyTask
    step: int
    observation_stamp_ns: int
    action: NDArray[np.float64]  # (7,)
    token_ids: NDArray[np.int64]  # (7,)
    log_probabilities: NDArray[np.float32]  # (7,)
    version: str
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Seconds between actions, of a delta's motion, of the oldest usable image, of the longest inference."""

    period: float = 0.2
    motion: float = 0.1
    image_timeout: float = 0.5
    deadline: float = 0.1

    @property
    def tolerance(self) -> float:
        """How much earlier than due an action may start: the camera's jitter must not cost a frame."""
        return self.period / 4


@dataclass(frozen=True)
class _Image:
    stamp_ns: int
    pixels: NDArray[np.uint8]


class PolicyLoop:
    """Runs a policy in a thread; every method may be called from any other thread."""

    def __init__(
        self,
        policy: VlaPolicy,
        publish: Callable[[PolicyStep], None],
        warn: Callable[[str], None],
        now_ns: Callable[[], int],
        timing: Timing | None = None,
        read: Callable[[Path], VlaPolicy] = VlaPolicy.from_checkpoint,
    ) -> None:
        """Start the thread; ``policy`` must be warm.

        ``now_ns`` is the clock of the image stamps; ``publish`` and ``warn`` are called from the thread.
        ``read`` loads the policies that take over later.
        """
        self.timing = timing or Timing()
        self.seconds: deque[float] = deque(maxlen=500)  # of the latest inferences
        self.missed_deadlines = 0
        self.timer = LoopTimer(self.timing.period)
        self._policy, self._publish, self._warn, self._now_ns = policy, publish, warn, now_ns
        self._read = read
        self._changed = threading.Condition()
        self._image: _Image | None = None
        self._task: PolicyTask | None = None
        self._seen: deque[tuple[NDArray[np.uint8], str]] = deque(maxlen=OBSERVATIONS)
        self._generator = torch.Generator()
        self._closed = False
        self._step = 0
        self._due = 0.0  # monotonic s, of the next action
        self._not_before_ns = 0  # stamp of the first image that shows the effect of what was done last
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    @property
    def policy(self) -> VlaPolicy:
        """The policy that acts."""
        return self._policy

    @property
    def version(self) -> str:
        """The version that acts."""
        return self._policy.version

    def offer_image(self, stamp_ns: int, pixels: NDArray[np.uint8]) -> None:
        """Make ``pixels`` (H, W, 3) uint8 RGB the latest image; an earlier unused one is forgotten."""
        with self._changed:
            self._image = _Image(stamp_ns, pixels)
            self._changed.notify()

    def start_task(self, task: PolicyTask) -> None:
        """Act on ``task`` from the next image on; a running task ends.

        Raises:
            ValueError: instruction or temperature are not usable.
        """
        if not 0.0 <= task.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or above and finite, got {task.temperature}")
        self._policy.prompt_ids([task.instruction])
        with self._changed:
            self.timer.pause()
            self._task, self._step, self._due = task, 0, time.monotonic()
            self._not_before_ns = self._now_ns()
            self._generator.manual_seed(task.seed)
            self._changed.notify()

    def stop_task(self) -> None:
        """Stop acting: no action is published once this returns."""
        with self._changed:
            self._task = None

    def load(self, folder: Path) -> str:
        """Load a checkpoint or adapter folder beside the running policy, check it, then switch to it.

        It is tried on the last observations that were acted on and on the latest image. Returns the new
        version. On any error the running policy stays.

        Raises:
            CheckpointError: the folder was refused, or its policy failed on an observation.
        """
        torch.set_num_threads(1)
        candidate = self._read(folder)
        with self._changed:
            observations = list(self._seen)
            if self._image is not None:
                instruction = observations[-1][1] if observations else CHECK_INSTRUCTION
                observations.append((self._image.pixels, instruction))
        try:
            candidate.warm_up()
            for pixels, instruction in observations:
                if not np.isfinite(candidate.act(pixels[None], [instruction]).actions).all():
                    raise FloatingPointError("its actions are not finite")
        except (FloatingPointError, ValueError, RuntimeError) as error:
            raise CheckpointError(folder, [f"failed on an observation: {error}"]) from error
        with self._changed:
            self._policy = candidate
        return candidate.version

    def close(self) -> None:
        """Stop acting and end the thread."""
        with self._changed:
            self._task, self._closed = None, True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)
        while (work := self._wait_for_work()) is not None:
            task, image, policy = work
            try:
                self._act(task, image, policy)
            except (FloatingPointError, ValueError, RuntimeError) as error:
                self.stop_task()
                self._warn(f"inference failed, the task ends: {error}")

    def _wait_for_work(self) -> tuple[PolicyTask, _Image, VlaPolicy] | None:
        """Wait until an action is due and an image is there for it; None when the loop is closed."""
        with self._changed:
            while not self._closed:
                task, image, now = self._task, self._image, time.monotonic()
                early = self._due - self.timing.tolerance - now
                if task is None:
                    self._changed.wait()
                elif early > 0:
                    self._changed.wait(early)
                elif image is None or not self._usable(image):
                    self._changed.wait(self.timing.image_timeout)
                    self._warn_when_stale(task)
                else:
                    self._due = max(
                        self._due + self.timing.period, now + self.timing.period - self.timing.tolerance
                    )
                    return task, image, self._policy
        return None

    def _usable(self, image: _Image) -> bool:
        age = (self._now_ns() - image.stamp_ns) * 1e-9
        return image.stamp_ns >= self._not_before_ns and age <= self.timing.image_timeout

    def _warn_when_stale(self, task: PolicyTask) -> None:
        image = self._image
        newest = self._not_before_ns if image is None else max(image.stamp_ns, self._not_before_ns)
        age = (self._now_ns() - newest) * 1e-9
        if self._task is task and age > self.timing.image_timeout:
            self._warn(f"no usable image for {age:.1f} s; no action until the camera delivers again")

    def _act(self, task: PolicyTask, image: _Image, policy: VlaPolicy) -> None:
        self.timer.begin()
        mark = self.timer.mark
        batch = policy.act(image.pixels[None], [task.instruction], task.temperature, self._generator, mark)
        self.seconds.append(batch.seconds)
        if batch.seconds > self.timing.deadline:
            self.missed_deadlines += 1
            self._warn(
                f"inference took {batch.seconds * 1e3:.0f} ms, over {self.timing.deadline * 1e3:.0f} ms"
            )
        with self._changed:
            self._seen.append((image.pixels, task.instruction))
            if self._task is not task:
                return
            self._publish(
                PolicyStep(
                    task,
                    self._step,
                    image.stamp_ns,
                    batch.actions[0],
                    batch.token_ids[0],
                    batch.log_probabilities[0],
                    policy.version,
                    batch.seconds,
                )
            )
            mark("publish")
            self.timer.end()
            self._not_before_ns = self._now_ns() + int(self.timing.motion * 1e9)
            self._step += 1
            if task.max_steps and self._step >= task.max_steps:
                self._task = None
