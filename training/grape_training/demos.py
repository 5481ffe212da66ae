"""Scripted demonstrations: the expert drives the simulated arm, with noise on what is done, none on labels.

Noise on the executed action with the clean expert action as label (DART, Laskey et al. 2017) shows the
policy how to come back from states beside the expert's path. Only successful runs are kept. They are
written as episodes in the recorder's format, and as small frames for training.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from grape_episodes import contract
from grape_episodes.manifest import start_manifest
from grape_episodes.types import Episode, EpisodeManifest
from grape_episodes.writer import write_episode
from grape_policy.vla.preprocess import Preprocessor
from grape_sim.environment import Observation, SimEnvironment
from grape_sim.expert import is_held, plan
from grape_sim.initial_state import make_id, sample
from grape_sim.tasks import Task, find_task
from numpy.typing import NDArray
from tqdm import tqdm

from grape_training.frames import (
    CLASS_GRID,
    OBJECTS,
    TASK_NAMES,
    UNKNOWN_CLASS,
    Frames,
    concatenate,
    shard_folders,
    write_shard,
)

VERSION = "expert-00000000"  # the policy version of demonstrations: no checkpoint made them
_SHARD_EPISODES = 20
_AFTER_SUCCESS = 2  # steps that show the retreat


@dataclass(frozen=True)
class DemoOptions:
    """How demonstrations are made.

    ``noise``: standard deviation of the executed translation, m per axis and step; each episode draws its own
    share of it, so that some are clean.
    """

    noise: float = 0.008
    max_steps: int = 60
    image_size: int = 112
    seed: int = 0


@dataclass
class Labels:
    """One row per observation: what only the simulation knows."""

    objects: list[NDArray[np.float32]] = field(default_factory=list)
    gripper: list[NDArray[np.float64]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, environment: SimEnvironment, tasks: tuple[Task, ...]) -> None:
        """Label the environment's present state for every task whose objects are on the table."""
        shown = {name for task in tasks for name in (task.source, task.target)}
        poses = environment.privileged()
        rows = [poses[name][0] if name in shown else np.full(3, np.nan) for name in OBJECTS]
        self.objects.append(np.asarray(rows, np.float32))
        actions = np.full((len(TASK_NAMES), 7), np.nan, np.float32)
        held = -1
        for task in tasks:
            situation = environment.situation(task)
            actions[TASK_NAMES.index(task.name)] = plan(situation, task)
            held = OBJECTS.index(task.source) if is_held(situation, task) else held
        self.gripper.append(environment.situation(tasks[0]).end_effector_position)
        self.held.append(held)
        self.actions.append(actions)

    def frames(self, images: NDArray[np.uint8]) -> Frames:
        """Return the labelled frames of ``images`` (n, s, s, 3)."""
        classes = np.full((len(images), CLASS_GRID, CLASS_GRID), UNKNOWN_CLASS, np.uint8)
        gripper, held = np.asarray(self.gripper, np.float32), np.asarray(self.held, np.int8)
        return Frames(images, classes, np.stack(self.objects), gripper, held, np.stack(self.actions))


@dataclass(frozen=True)
class Demonstration:
    """One run of the expert: T executed actions, T + 1 observations, labels of the first T."""

    success: bool
    observations: list[Observation]
    actions: list[NDArray[np.float64]]
    labels: Labels


def demonstrate(
    environment: SimEnvironment,
    initial_state_id: str,
    options: DemoOptions,
    noise: float,
    rng: np.random.Generator,
) -> Demonstration:
    """Run the expert from one initial state with ``noise`` (m) on its actions, until success or the limit."""
    observations = [environment.reset(initial_state_id)]
    start = sample(initial_state_id)
    actions: list[NDArray[np.float64]] = []
    labels, left = Labels(), _AFTER_SUCCESS
    while len(actions) < options.max_steps and left:
        labels.add(environment, start.shown_tasks)
        action = plan(environment.situation(start.task), start.task)
        action[:3] += rng.normal(0.0, noise, 3)
        observations.append(environment.step(action))
        actions.append(action)
        left -= environment.success_now
    return Demonstration(bool(environment.judge().success), observations, actions, labels)


def make_demos(
    root: Path, tasks: tuple[str, ...], episodes: int, options: DemoOptions, *, record: bool = True
) -> int:
    """Make ``episodes`` successful demonstrations, spread over ``tasks``; return how many runs failed.

    Frames go to ``<root>/frames``, episodes (with ``record``) to ``<root>/episodes``. Finished shards are
    kept, so that an interrupted run goes on where it stopped.
    """
    for task in tasks:
        find_task(task)
    environment, failed = SimEnvironment(depth=record), 0
    shards = -(-episodes // _SHARD_EPISODES)
    try:
        for shard in tqdm(range(shards), desc="demonstrations", unit="shard"):
            folder = root / "frames" / f"demos-{shard:05d}"
            if folder in shard_folders(root / "frames"):
                continue
            first = shard * _SHARD_EPISODES
            wanted = range(first, min(first + _SHARD_EPISODES, episodes))
            made = [_one(environment, root, tasks[k % len(tasks)], k, options, record) for k in wanted]
            failed += sum(tries for _, tries in made)
            about = {"kind": "demonstrations", "shard": shard, "noise": options.noise, "seed": options.seed}
            write_shard(folder, concatenate([frames for frames, _ in made]), about)
    finally:
        environment.close()
    return failed


def _one(
    environment: SimEnvironment, root: Path, task: str, number: int, options: DemoOptions, record: bool
) -> tuple[Frames, int]:
    """Return the frames of demonstration ``number`` and how many failed runs came before it succeeded."""
    rng = np.random.default_rng([options.seed, number])
    for attempt in range(20):
        state = make_id(task, "train", number * 20 + attempt)
        demo = demonstrate(environment, state, options, options.noise * rng.uniform(0.0, 1.5), rng)
        if demo.success:
            break
    if record:
        _record(root / "episodes", state, demo, number, options)
    images = np.stack([observation.image for observation in demo.observations[:-1]])
    return demo.labels.frames(Preprocessor(image_size=options.image_size).resize(images)), attempt


def _record(root: Path, state: str, demo: Demonstration, number: int, options: DemoOptions) -> None:
    start = sample(state)
    manifest = start_manifest(
        episode_id=f"demo-{options.seed}-{number:05d}",
        task=start.task.name,
        instruction=start.task.instruction,
        initial_state_id=state,
        policy_version=VERSION,
        temperature=0.0,
        seed=options.seed,
        source="env",
    )
    if not (root / manifest.episode_id).exists():
        outcome = "success" if demo.success else "failure"
        done = replace(manifest, outcome=outcome, success=demo.success, grasped=demo.success)
        write_episode(root, _episode(demo, done))


def _episode(demo: Demonstration, manifest: EpisodeManifest) -> Episode:
    seen, steps = demo.observations, len(demo.actions)
    depths = [o.depth for o in seen if o.depth is not None]
    return Episode(
        manifest=manifest,
        images=np.stack([o.image for o in seen]),
        depths=np.stack(depths) if depths else None,
        stamps_ns=np.array([o.stamp_ns for o in seen], np.int64),
        actions=np.stack(demo.actions),
        token_ids=np.zeros((steps, 7), np.int64),  # no tokens: the expert is no language model
        log_probabilities=np.zeros((steps, 7), np.float32),
        policy_versions=(VERSION,) * steps,
        joint_names=_joint_names(),
        joint_positions=np.stack([o.joint_positions for o in seen]),
        end_effector_positions=np.stack([o.end_effector_position for o in seen]),
        end_effector_quaternions=np.stack([o.end_effector_quaternion for o in seen]),
        camera=contract.camera(),
    )


def _joint_names() -> tuple[str, ...]:
    from grape_policy.arm.description import load_description

    return (*load_description("wx250s").joints, "gripper")
