"""Rollouts with what the simulator knows about them: truth for tests and benchmarks of perception and scores.

Nothing that scores an episode may read this: only what compares scores with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from grape_episodes import contract
from grape_episodes.contract import Camera
from grape_episodes.manifest import start_manifest
from grape_episodes.reader import read_episode
from grape_episodes.types import Episode, EpisodeManifest, Extrinsics
from grape_episodes.writer import write_episode
from grape_policy.arm.description import load_description
from grape_policy.arm.safety import ActionRefused
from grape_sim.environment import Observation, SimEnvironment
from grape_sim.expert import expert_action, plan
from grape_sim.initial_state import sample
from safetensors.numpy import load_file, save_file
from scipy.spatial.transform import Rotation

from grape_training.policies import VlaActor

RELEASE_DISTANCE, CARRIED_HEIGHT = 0.09, 0.05  # m


@dataclass(frozen=True)
class Rollout:
    """An episode and the true centres (T+1, 3) of its objects' visible shapes, metres, base frame."""

    episode: Episode
    centres: dict[str, np.ndarray]


Actor = Callable[[SimEnvironment, Observation], np.ndarray]


def expert(environment: SimEnvironment, _: Observation) -> np.ndarray:
    """Do the task as the expert does."""
    return expert_action(environment)


def other_object(environment: SimEnvironment, _: Observation) -> np.ndarray:
    """Let the expert do the other task on the table: everything right, with the wrong object."""
    other = sample(environment.initial_state_id).other_task
    return expert_action(environment, other.name) if other is not None else still()


def straight(environment: SimEnvironment, _: Observation) -> np.ndarray:
    """Do the task as the expert would if nothing stood in the way."""
    return plan(replace(environment.situation(environment.task), obstacles=()), environment.task)


def still() -> np.ndarray:
    """Return the action (7,) that stays where it is with the gripper open."""
    return np.array([0, 0, 0, 0, 0, 0, 1.0])


class EarlyRelease:
    """The expert lets go of the object on the way, a little before the target, and stops: a near miss."""

    def __init__(self, distance: float = RELEASE_DISTANCE) -> None:
        self.distance, self.released = distance, False

    def __call__(self, environment: SimEnvironment, _: Observation) -> np.ndarray:
        """Return the expert's action, or the open gripper from the release on."""
        now = environment.situation(environment.task)
        gap = float(np.linalg.norm((now.source_position - now.target_position)[:2]))
        self.released = self.released or (now.source_position[2] > CARRIED_HEIGHT and gap < self.distance)
        return still() if self.released else expert_action(environment)


class PolicyActor:
    """A VLA; its tokens and log-probabilities go into the episode."""

    def __init__(self, actor: VlaActor) -> None:
        self.actor = actor

    def __call__(self, _: SimEnvironment, observation: Observation) -> np.ndarray:
        """Return the policy's action for the image."""
        return self.actor.act(observation)


def roll_out(
    environment: SimEnvironment,
    initial_state_id: str,
    noise: float,
    seed: int,
    max_steps: int = 50,
    actor: Actor = expert,
    stop_at_success: bool = True,
) -> Rollout:
    """Let ``actor`` act with position noise of ``noise`` metres per step until success or ``max_steps``.

    An action that the arm would refuse ends the episode, as it does on the arm.
    """
    rng = np.random.default_rng(seed)
    observations = [environment.reset(initial_state_id)]
    poses, actions = [environment.privileged()], list[np.ndarray]()
    outcome = ""
    while len(actions) < max_steps and not (stop_at_success and environment.success_now):
        action = actor(environment, observations[-1])
        action[:3] = np.clip(action[:3] + rng.normal(0.0, noise, 3), -0.2, 0.2) if noise else action[:3]
        try:
            observations.append(environment.step(action))
        except ActionRefused as error:
            outcome = str(error)
            break
        poses.append(environment.privileged())
        actions.append(action)
    manifest = _manifest(environment, seed, f"{round(noise * 1e4):04d}-{seed:04d}", actor, outcome)
    centres = {
        name: np.array([pose[name][0] + Rotation.from_quat(pose[name][1]).apply(centre) for pose in poses])
        for name, centre in shape_centres(environment).items()
    }
    episode = _episode(manifest, observations, np.array(actions), actor, seed)
    return Rollout(replace(episode, camera=environment.camera), centres)


def _extrinsics(camera: Camera) -> Extrinsics:
    x, y, z = camera.base_from_camera[:3, 3].tolist()
    quaternion = Rotation.from_matrix(camera.base_from_camera[:3, :3]).as_quat().tolist()
    return Extrinsics((x, y, z), tuple(quaternion))


def _manifest(
    environment: SimEnvironment, seed: int, label: str, actor: Actor, refused: str
) -> EpisodeManifest:
    verdict, policy = environment.judge(), actor.actor if isinstance(actor, PolicyActor) else None
    started = start_manifest(
        episode_id=f"{environment.initial_state_id.replace('/', '-')}-{label}",
        task=environment.task.name,
        instruction=environment.instruction,
        initial_state_id=environment.initial_state_id,
        policy_version=policy.policy.version if policy else "scripted-00000000",
        temperature=policy.temperature if policy else 0.0,
        seed=seed,
        source="env",
    )
    return replace(
        started,
        extrinsics=_extrinsics(environment.camera),
        outcome="stopped" if refused else "success" if verdict.success else "failure",
        success=bool(verdict.success),
        grasped=bool(verdict.grasped),
        collisions=int(verdict.collisions),
        reason=refused or verdict.message,
    )


def _episode(
    manifest: EpisodeManifest,
    observations: list[Observation],
    actions: np.ndarray,
    actor: Actor,
    seed: int,
) -> Episode:
    steps = len(actions)
    tokens = np.zeros((steps, 7), np.int64)
    # A scripted actor has no log-probabilities: random ones, so that R_self tells nothing.
    log_probabilities = -np.random.default_rng(seed).random((steps, 7)).astype(np.float32)
    if isinstance(actor, PolicyActor):
        batches = actor.actor.batches[:steps]
        tokens = np.concatenate([batch.token_ids for batch in batches])
        log_probabilities = np.concatenate([batch.log_probabilities for batch in batches])
    return Episode(
        manifest=replace(manifest, steps=steps),
        images=np.stack([o.image for o in observations]),
        depths=np.stack([o.depth for o in observations if o.depth is not None]),
        stamps_ns=np.array([o.stamp_ns for o in observations], np.int64),
        actions=actions,
        token_ids=tokens,
        log_probabilities=log_probabilities,
        policy_versions=(manifest.policy_version,) * steps,
        joint_names=load_description("wx250s").joint_state_names,
        joint_positions=np.stack([o.joint_positions for o in observations]),
        end_effector_positions=np.stack([o.end_effector_position for o in observations]),
        end_effector_quaternions=np.stack([o.end_effector_quaternion for o in observations]),
        camera=contract.camera(),
    )


def save_rollout(root: Path, name: str, rollout: Rollout) -> Path:
    """Write the episode as ``<root>/episodes/<name>`` with the truth beside it; return its folder."""
    manifest = replace(rollout.episode.manifest, episode_id=name)
    centres = {key: np.ascontiguousarray(value) for key, value in rollout.centres.items()}
    save_file(centres, _truth(root, name))  # first: an episode that is there is complete
    return write_episode(root / "episodes", replace(rollout.episode, manifest=manifest))


def load_rollout(root: Path, name: str) -> Rollout:
    """Read what ``save_rollout`` wrote."""
    return Rollout(read_episode(root / "episodes" / name), load_truth(root, name))


def has_truth(root: Path, name: str) -> bool:
    """Return whether the truth of the episode called ``name`` is there."""
    return _truth(root, name).exists()


def load_truth(root: Path, name: str) -> dict[str, np.ndarray]:
    """Return the true centres of the episode called ``name``."""
    centres: dict[str, np.ndarray] = load_file(_truth(root, name))
    return centres


def _truth(root: Path, name: str) -> Path:
    folder = root / "truth"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.safetensors"


def shape_centres(environment: SimEnvironment) -> dict[str, np.ndarray]:
    """Return the centre (3,) of each object's visible shapes in its body frame."""
    return _shape_centres(environment.model)


@lru_cache(maxsize=32)
def _shape_centres(model: Any) -> dict[str, np.ndarray]:
    names = [model.body(i).name for i in range(model.nbody) if model.body(i).jntnum[0] == 1]
    objects = [
        name
        for name in names
        if not name.startswith("wx250s/") and model.joint(model.body(name).jntadr[0]).type[0] == 0
    ]
    return {name: _shape_centre(model, name) for name in objects}


def _shape_centre(model: mujoco.MjModel, name: str) -> np.ndarray:
    body = model.body(name).id
    corners = []
    for geom in np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == 1)):
        turn = np.abs(Rotation.from_quat(model.geom_quat[geom][[1, 2, 3, 0]]).as_matrix())
        half = turn @ model.geom_aabb[geom][3:]
        corners += [model.geom_pos[geom] - half, model.geom_pos[geom] + half]
    middle: np.ndarray = (np.min(corners, axis=0) + np.max(corners, axis=0)) / 2
    return middle
