"""Expert rollouts with what the simulator knows about them: truth for tests and benchmarks of perception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from episode_factory import JOINTS, make_manifest
from grape_episodes import contract
from grape_episodes.types import Episode
from grape_sim.environment import Observation, SimEnvironment
from grape_sim.expert import expert_action
from grape_sim.initial_state import sample
from grape_sim.scene import shared_model
from scipy.spatial.transform import Rotation

TASKS = ("carrot_on_plate", "eggplant_in_basket", "stack_cube", "spoon_on_towel")


@dataclass(frozen=True)
class Rollout:
    """An episode and the true centres (T+1, 3) of its objects' visible shapes, metres, base frame."""

    episode: Episode
    centres: dict[str, np.ndarray]


Actor = Callable[[SimEnvironment], np.ndarray]


def other_object(environment: SimEnvironment) -> np.ndarray:
    """The expert does the other task on the table: everything right, with the wrong object."""
    return expert_action(environment, sample(environment.initial_state_id).other_task.name)


class EarlyRelease:
    """The expert lets go of the object on the way, a little before the target, and stops: a near miss."""

    def __init__(self, distance: float = 0.09) -> None:
        self.distance, self.released = distance, False

    def __call__(self, environment: SimEnvironment) -> np.ndarray:
        now = environment.situation(environment.task)
        gap = float(np.linalg.norm((now.source_position - now.target_position)[:2]))
        held = now.source_position[2] > 0.05
        self.released = self.released or (held and gap < self.distance)
        return np.array([0, 0, 0, 0, 0, 0, 1.0]) if self.released else expert_action(environment)


def roll_out(
    environment: SimEnvironment,
    initial_state_id: str,
    noise: float,
    seed: int,
    max_steps: int = 50,
    actor: Actor = expert_action,
    stop_at_success: bool = True,
) -> Rollout:
    """Let ``actor`` act with position noise of ``noise`` metres per step until success or ``max_steps``."""
    rng = np.random.default_rng(seed)
    observations = [environment.reset(initial_state_id)]
    poses, actions = [environment.privileged()], []
    while len(actions) < max_steps and not (stop_at_success and environment.success_now):
        action = actor(environment)
        action[:3] = np.clip(action[:3] + rng.normal(0.0, noise, 3), -0.2, 0.2)
        observations.append(environment.step(action))
        poses.append(environment.privileged())
        actions.append(action)
    centres = {
        name: np.array([pose[name][0] + Rotation.from_quat(pose[name][1]).apply(centre) for pose in poses])
        for name, centre in shape_centres().items()
    }
    return Rollout(_episode(environment, observations, np.array(actions), noise, seed), centres)


def _episode(
    environment: SimEnvironment,
    observations: list[Observation],
    actions: np.ndarray,
    noise: float,
    seed: int,
) -> Episode:
    verdict, steps = environment.judge(), len(actions)
    state = environment.initial_state_id
    manifest = make_manifest(
        episode_id=f"{state.replace('/', '-')}-{round(noise * 1e4):04d}-{seed:04d}",
        task=environment.task.name,
        instruction=environment.instruction,
        initial_state_id=state,
        seed=seed,
        outcome="success" if verdict.success else "failure",
        success=bool(verdict.success),
        grasped=bool(verdict.grasped),
        collisions=int(verdict.collisions),
        reason=verdict.message,
        steps=steps,
    )
    rng = np.random.default_rng(seed)
    return Episode(
        manifest=manifest,
        images=np.stack([o.image for o in observations]),
        depths=np.stack([o.depth for o in observations]),
        stamps_ns=np.array([o.stamp_ns for o in observations], np.int64),
        actions=actions,
        token_ids=np.zeros((steps, 7), np.int64),
        log_probabilities=-rng.random((steps, 7)).astype(np.float32),
        policy_versions=(manifest.policy_version,) * steps,
        joint_names=JOINTS,
        joint_positions=np.stack([o.joint_positions for o in observations]),
        end_effector_positions=np.stack([o.end_effector_position for o in observations]),
        end_effector_quaternions=np.stack([o.end_effector_quaternion for o in observations]),
        camera=contract.camera(),
    )


@cache
def shape_centres() -> dict[str, np.ndarray]:
    """Return the centre (3,) of each object's visible shapes in its body frame."""
    model = shared_model()
    names = [model.body(i).name for i in range(model.nbody) if model.body(i).jntnum[0] == 1]
    objects = [name for name in names if not name.startswith("wx250s/")]
    return {name: _shape_centre(name) for name in objects}


def _shape_centre(name: str) -> np.ndarray:
    model = shared_model()
    body = model.body(name).id
    corners = []
    for geom in np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == 1)):
        turn = np.abs(Rotation.from_quat(model.geom_quat[geom][[1, 2, 3, 0]]).as_matrix())
        half = turn @ model.geom_aabb[geom][3:]
        corners += [model.geom_pos[geom] - half, model.geom_pos[geom] + half]
    return (np.min(corners, axis=0) + np.max(corners, axis=0)) / 2
