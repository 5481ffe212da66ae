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
from grape_sim.expert import PLAIN, Style, draw_style, is_held, plan
from grape_sim.initial_state import InitialState
from grape_sim.judge import Verdict
from grape_sim.suite import Suite, Task, load_suite
from numpy.typing import NDArray
from tqdm import tqdm

from grape_training.errors import BadInputError
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
    share of it, so that some are clean. ``variety``: 0, always the plain expert, .. 1, every episode in a
    style of its own (speed, height and bend of the path, place of the grasp).
    """

    noise: float = 0.008
    variety: float = 0.0
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

    def add(self, environment: SimEnvironment, tasks: tuple[Task, ...], style: Style = PLAIN) -> None:
        """Label the environment's present state for every task whose objects are on the table.

        ``style``: how the expert does the first of them, which is the one that is carried out.
        """
        shown = {name for task in tasks for name in (task.source, task.target)}
        poses = environment.privileged()
        rows = [poses[name][0] if name in shown else np.full(3, np.nan) for name in OBJECTS]
        self.objects.append(np.asarray(rows, np.float32))
        actions = np.full((len(TASK_NAMES), 7), np.nan, np.float32)
        held = -1
        for task in tasks:
            situation = environment.situation(task)
            way = style if task is tasks[0] else PLAIN
            actions[TASK_NAMES.index(task.name)] = plan(situation, task, way)
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
    """One run of the expert: T executed actions, T + 1 observations, labels of the first T.

    labels: None if a task is on the table that training frames have no place for.
    """

    start: InitialState
    verdict: Verdict
    camera: contract.Camera
    observations: list[Observation]
    actions: list[NDArray[np.float64]]
    labels: Labels | None

    @property
    def success(self) -> bool:
        """Whether the task was done at the end."""
        return self.verdict.success


def demonstrate(
    environment: SimEnvironment,
    initial_state_id: str,
    options: DemoOptions,
    noise: float,
    rng: np.random.Generator,
) -> Demonstration:
    """Run the expert from one initial state with ``noise`` (m) on its actions, until success or the limit."""
    observations = [environment.reset(initial_state_id)]
    start = environment.suite.sample(initial_state_id)
    style = draw_style(rng, options.variety) if options.variety else PLAIN
    actions: list[NDArray[np.float64]] = []
    labels, left = Labels() if _is_labelled(start) else None, _AFTER_SUCCESS
    while len(actions) < max(options.max_steps, environment.suite.max_steps) and left:
        if labels is not None:
            labels.add(environment, start.shown_tasks, style)
        action = plan(environment.situation(start.task), start.task, style)
        action[:3] += rng.normal(0.0, noise, 3)
        observations.append(environment.step(action))
        actions.append(action)
        left -= environment.success_now
    return Demonstration(start, environment.judge(), environment.camera, observations, actions, labels)


def _is_labelled(start: InitialState) -> bool:
    """Whether training frames have places for all tasks on the table."""
    return all(task.name in TASK_NAMES for task in start.shown_tasks)


def make_demos(
    root: Path,
    tasks: tuple[str, ...],
    episodes: int,
    options: DemoOptions,
    *,
    suite: str | Path | Suite = "in_domain",
    record: bool = True,
) -> int:
    """Make ``episodes`` successful demonstrations, spread over ``tasks``; return how many runs failed.

    ``tasks`` are cells of ``suite``; those of ``in_domain`` are called like their tasks. Frames go to
    ``<root>/frames``, episodes (with ``record``) to ``<root>/episodes``. What is finished is kept, so that an
    interrupted run goes on where it stopped. Frames have places for the in-domain tasks and objects only:
    cells with others are recorded as episodes alone.

    Raises:
        BadInputError: unknown tasks, or nothing would be written.
    """
    loaded = load_suite(suite)
    labelled = _check_cells(loaded, tasks)
    if not labelled and not record:
        raise BadInputError(
            f"suite {loaded.name}: training frames have no place for its tasks", "Make them with --record"
        )
    environment, failed = SimEnvironment(suite=loaded, depth=record), 0
    shards = -(-episodes // _SHARD_EPISODES)
    try:
        for shard in tqdm(range(shards), desc="demonstrations", unit="shard"):
            folder = root / "frames" / f"demos-{shard:05d}"
            if folder in shard_folders(root / "frames"):
                continue
            first = shard * _SHARD_EPISODES
            wanted = list(range(first, min(first + _SHARD_EPISODES, episodes)))
            if not labelled:
                wanted = [k for k in wanted if not _episode_folder(root, loaded, options, k).exists()]
            made = [_one(environment, root, tasks[k % len(tasks)], k, options, record) for k in wanted]
            failed += sum(tries for _, tries in made)
            about: dict[str, object] = {"kind": "demonstrations", "shard": shard}
            about |= {"noise": options.noise, "seed": options.seed}
            about |= {"variety": options.variety} if options.variety else {}
            frames = [frames for frames, _ in made if frames is not None]
            if frames:
                write_shard(folder, concatenate(frames), about)
    finally:
        environment.close()
    return failed


def _check_cells(suite: Suite, names: tuple[str, ...]) -> bool:
    """Return whether training frames have places for all that the cells show; refuse unknown cells."""
    unknown = [name for name in names if name not in suite.cells]
    if unknown:
        raise BadInputError(
            f"unknown task {', '.join(unknown)} of suite {suite.name}", f"Known: {', '.join(suite.cells)}"
        )
    cells = [suite.cells[name] for name in names]
    return all(task.name in TASK_NAMES for cell in cells for task in (*cell.tasks, *cell.other_tasks))


def _one(
    environment: SimEnvironment, root: Path, cell: str, number: int, options: DemoOptions, record: bool
) -> tuple[Frames | None, int]:
    """Return the frames of demonstration ``number`` and how many failed runs came before it succeeded."""
    rng = np.random.default_rng([options.seed, number])
    for attempt in range(20):
        state = environment.suite.state_id(cell, environment.suite.splits[0], number * 20 + attempt)
        demo = demonstrate(environment, state, options, options.noise * rng.uniform(0.0, 1.5), rng)
        if demo.success:
            break
    if record:
        _record(_episode_folder(root, environment.suite, options, number), demo, options)
    if demo.labels is None:
        return None, attempt
    images = np.stack([observation.image for observation in demo.observations[:-1]])
    return demo.labels.frames(Preprocessor(image_size=options.image_size).resize(images)), attempt


def _episode_folder(root: Path, suite: Suite, options: DemoOptions, number: int) -> Path:
    about = "" if suite.plain_ids else f"{suite.name}-"
    return root / "episodes" / f"demo-{about}{options.seed}-{number:05d}"


def _record(folder: Path, demo: Demonstration, options: DemoOptions) -> None:
    manifest = start_manifest(
        episode_id=folder.name,
        task=demo.start.task.name,
        instruction=demo.start.instruction,
        initial_state_id=demo.start.initial_state_id,
        policy_version=VERSION,
        temperature=0.0,
        seed=options.seed,
        source="env",
    )
    if not folder.exists():
        verdict = demo.verdict
        done = replace(
            manifest,
            outcome="success" if verdict.success else "failure",
            success=verdict.success,
            grasped=verdict.grasped,
            collisions=verdict.collisions,
        )
        write_episode(folder.parent, _episode(demo, done))


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
        camera=demo.camera,
    )


def _joint_names() -> tuple[str, ...]:
    from grape_policy.arm.description import load_description

    return (*load_description("wx250s").joints, "gripper")
