"""The initial-state check: are the task's objects where they were at the state's first rollout?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grape_episodes import contract
from grape_episodes.bag import write_durably
from grape_episodes.manifest import start_manifest
from grape_episodes.types import Episode

REFERENCES_NAME = "initial_states.json"


@dataclass(frozen=True)
class View:
    """The scene at one moment: image (H, W, 3) uint8 RGB, depth (H, W) uint16 mm, joints and end effector.

    ``intrinsics``: (3, 3) in px, of images of this size; the camera stands where the contract says.
    """

    image: np.ndarray
    depth: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray
    intrinsics: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Where a task's objects are: name -> centre (3,) m, base frame; NaN: not seen. And is it done?"""

    positions: dict[str, np.ndarray]
    done: bool

    @property
    def unseen(self) -> list[str]:
        """The objects that are not in the image."""
        return [name for name, position in self.positions.items() if not np.isfinite(position).all()]


def locate(task: str, view: View) -> Scene:
    """Find the objects of ``task`` in one view, as the scorer does in every frame.

    Raises:
        ValueError: There are no stages for the task, or an object's looks are not declared.
    """
    from grape_preference.constraints import plan_for_task
    from grape_preference.keypoints import track
    from grape_preference.language_types import Context
    from grape_preference.stage_scoring import ScoringError

    plan = plan_for_task(task)
    try:
        tracks = track(_episode(task, [view], [0]), plan.keypoints)
    except ScoringError as error:
        raise ValueError(str(error)) from error
    assert tracks is not None
    positions = {name: tracks.positions[0, i] for i, name in enumerate(tracks.names)}
    seen = bool(np.isfinite(tracks.positions[0]).all())
    return Scene(positions, seen and bool(plan.success.evaluate(Context(tracks))[-1]))


def judge_views(task: str, views: Sequence[View], stamps_ns: Sequence[int]) -> tuple[bool, str]:
    """Judge what was seen since the start by the task's success condition on keypoints; say why in words.

    Raises:
        ValueError: There are no stages for the task, or an object's looks are not declared.
    """
    from grape_preference.constraints import plan_for_task
    from grape_preference.judge import judge
    from grape_preference.keypoints import track
    from grape_preference.stage_scoring import ScoringError

    plan, episode = plan_for_task(task), _episode(task, views, stamps_ns)
    try:
        tracks = track(episode, plan.keypoints)
    except ScoringError as error:
        raise ValueError(str(error)) from error
    assert tracks is not None
    unseen = [name for i, name in enumerate(tracks.names) if not np.isfinite(tracks.positions[-1, i]).all()]
    if unseen:
        return False, f"not seen: {', '.join(unseen)}"
    verdict = judge(episode, tracks, plan)
    return verdict.success, verdict.message


def _episode(task: str, views: Sequence[View], stamps_ns: Sequence[int]) -> Episode:
    """Return the views as an episode of so many observations and no action."""
    manifest = start_manifest(
        episode_id="still",
        task=task,
        instruction="",
        initial_state_id="still",
        policy_version="",
        temperature=0.0,
        seed=0,
        source="ros",
    )
    return Episode(
        manifest=manifest,
        images=np.stack([view.image for view in views]),
        depths=np.stack([view.depth for view in views]),
        stamps_ns=np.array(stamps_ns, np.int64),
        actions=np.zeros((0, 7)),
        token_ids=np.zeros((0, 7), np.int64),
        log_probabilities=np.zeros((0, 7), np.float32),
        policy_versions=(),
        joint_names=views[0].joint_names,
        joint_positions=np.stack([view.joint_positions for view in views]),
        end_effector_positions=np.stack([view.end_effector_position for view in views]),
        end_effector_quaternions=np.stack([view.end_effector_quaternion for view in views]),
        camera=_camera(views[0]),
    )


def _camera(view: View) -> contract.Camera:
    height, width = view.depth.shape
    return contract.Camera(width, height, view.intrinsics, contract.camera().base_from_camera)


def worst_distance(scene: Scene, reference: dict[str, np.ndarray]) -> tuple[str, float]:
    """Return the object that is farthest from its place, and by how much (m); infinitely when not seen."""
    gaps = {name: float(np.linalg.norm(scene.positions[name] - place)) for name, place in reference.items()}
    gaps = {name: gap if np.isfinite(gap) else float("inf") for name, gap in gaps.items()}
    name = max(gaps, key=lambda key: gaps[key])
    return name, gaps[name]


class References:
    """Where the objects stood in each initial state, kept in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, dict[str, list[float]]] = {}
        if path.exists():
            self._places = json.loads(path.read_text(encoding="utf-8"))

    def find(self, initial_state_id: str) -> dict[str, np.ndarray] | None:
        """Return name -> (3,) m, or None for a state that nobody has seen yet."""
        places = self._places.get(initial_state_id)
        return None if places is None else {name: np.array(place) for name, place in places.items()}

    def save(self, initial_state_id: str, scene: Scene) -> None:
        """Keep the scene as the one that the state's name stands for."""
        places = {name: [round(float(x), 4) for x in place] for name, place in scene.positions.items()}
        self._places[initial_state_id] = places
        write_durably(self._path, json.dumps(self._places, indent=2) + "\n")
