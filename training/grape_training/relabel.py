"""Relabelled rollouts: the policy drives, the expert says what it would have done (DAgger, Ross et al. 2011).

A policy that imitates drifts into states that no demonstration shows. The expert is stateless, so every
such state can be labelled. In a share of the steps the expert's action is executed instead, so that a
rollout does not stay where the policy is stuck.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grape_policy.arm.safety import ActionRefused
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.preprocess import Preprocessor
from grape_sim.environment import SimEnvironment
from grape_sim.expert import plan
from grape_sim.initial_state import make_id, sample
from numpy.typing import NDArray
from tqdm import tqdm

from grape_training.demos import Labels
from grape_training.frames import Frames, concatenate, write_shard

_FIRST_STATE = 100_000  # of the train split: not those of the demonstrations


@dataclass(frozen=True)
class RelabelOptions:
    """How rollouts are made; ``expert_share``: of the steps in which the expert's action is executed."""

    max_steps: int = 35
    expert_share: float = 0.25
    batch: int = 10
    image_size: int = 112
    seed: int = 0


def relabel(
    policy: VlaPolicy, root: Path, tasks: tuple[str, ...], episodes: int, options: RelabelOptions
) -> None:
    """Write labelled frames of ``episodes`` rollouts per task below ``root``; existing shards are kept."""
    for task in tasks:
        for first in tqdm(range(0, episodes, options.batch), desc=f"rollouts of {task}"):
            folder = root / f"rollouts-{options.seed:03d}-{task}-{first:04d}"
            if folder.exists():
                continue
            numbers = range(first, min(first + options.batch, episodes))
            states = [make_id(task, "train", _FIRST_STATE + 1000 * options.seed + n) for n in numbers]
            frames = rollouts(policy, states, options)
            write_shard(folder, frames, {"kind": "rollouts", "policy": policy.version, "seed": options.seed})


def rollouts(policy: VlaPolicy, states: list[str], options: RelabelOptions) -> Frames:
    """Run ``policy`` from ``states`` side by side; return every seen frame with the expert's answers."""
    environments = [SimEnvironment() for _ in states]
    try:
        running = [_Rollout(*pair, options) for pair in zip(environments, states, strict=True)]
        rng = np.random.default_rng([options.seed, len(states)])
        for _ in range(options.max_steps):
            active = [rollout for rollout in running if not rollout.done]
            if not active:
                break
            images = np.stack([rollout.image for rollout in active])
            actions = policy.act(images, [rollout.environment.instruction for rollout in active]).actions
            for rollout, action in zip(active, actions, strict=True):
                rollout.advance(action, rng)
        return concatenate([rollout.frames() for rollout in running])
    finally:
        for environment in environments:
            environment.close()


class _Rollout:
    """One environment with what was seen in it."""

    def __init__(self, environment: SimEnvironment, state: str, options: RelabelOptions) -> None:
        self.environment, self._options = environment, options
        start = sample(state)
        self._tasks = start.shown_tasks
        self.image = environment.reset(state).image
        self._images: list[NDArray[np.uint8]] = []
        self._labels = Labels()
        self.done = False

    def advance(self, action: NDArray[np.float64], rng: np.random.Generator) -> None:
        """Label the present state, then execute ``action`` or, in a share of the steps, the expert's."""
        self._images.append(self.image)
        self._labels.add(self.environment, self._tasks)
        if rng.random() < self._options.expert_share:
            action = plan(self.environment.situation(self._tasks[0]), self._tasks[0])
        try:
            self.image = self.environment.step(action).image
        except ActionRefused:
            self.done = True
        self.done = self.done or self.environment.success_now

    def frames(self) -> Frames:
        """Return the labelled frames so far."""
        return self._labels.frames(Preprocessor(self._options.image_size).resize(np.stack(self._images)))
