"""Endless labelled images for pre-training: random layouts, arm poses and held objects, without physics.

States are drawn mostly where precision matters: on the way down to a source, at the grasp, lifting, above and
on the target, after letting go. Each sample carries the expert's action for both tasks on the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from grape_policy.arm.description import load_description
from grape_policy.arm.kinematics import ArmKinematics, Pose
from grape_policy.arm.model import ARM_JOINTS, FINGER_JOINTS
from scipy.spatial.transform import Rotation

from grape_sim import expert
from grape_sim.initial_state import other_task
from grape_sim.layout import place_objects
from grape_sim.rendering import CameraRenderer
from grape_sim.scene import parking_position, set_object_pose, shared_model
from grape_sim.suite import load_suite
from grape_sim.tasks import TASKS, Task

# Share of each kind of state.
KINDS = {
    "free": 0.17,
    "approach": 0.30,
    "grasp": 0.13,
    "lift": 0.08,
    "carry": 0.10,
    "lower": 0.17,
    "placed": 0.05,
}
_TILTED_SHARE = 0.3
# Lower and upper corner (m) of where the end effector stays in the picture.
VISIBLE = (np.array([0.18, -0.18, 0.018]), np.array([0.43, 0.18, 0.25]))


@dataclass(frozen=True)
class RandomSample:
    """One image with everything that is known about it. Metres in the base frame, quaternions xyzw.

    image: (240, 320, 3) uint8. masks: (240, 320) uint8, see ``rendering.OBJECT_IDS``, or None. positions:
    body origin (3,) of each object on the table. opening: 0 closed .. 1 open. held: the object in the gripper
    or None. actions: the expert's action (7,) for each of the two tasks.
    """

    image: np.ndarray
    masks: np.ndarray | None
    kind: str
    positions: dict[str, np.ndarray]
    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray
    opening: float
    held: str | None
    actions: dict[str, np.ndarray]


@dataclass
class _Draft:
    """A state being composed."""

    positions: dict[str, np.ndarray]
    quaternions: dict[str, np.ndarray]
    end_effector: np.ndarray
    metres: float  # of one finger
    held: str | None = None


class RandomSceneRenderer:
    """Draws labelled images; the same seed gives the same sequence. Close it when done."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._description = load_description("wx250s")
        self._kinematics = ArmKinematics(self._description)
        self._model = shared_model()
        self._cell = next(iter(load_suite("in_domain").cells.values()))
        self._data = mujoco.MjData(self._model)
        self._renderer = CameraRenderer(self._model)
        self._arm = [self._model.joint(name).qposadr[0] for name in ARM_JOINTS]
        self._fingers = [self._model.joint(name).qposadr[0] for name in FINGER_JOINTS]

    def sample(self, *, masks: bool = True) -> RandomSample:
        """Return the next sample; without ``masks`` it takes half the time."""
        while True:
            task = list(TASKS.values())[int(self._rng.integers(len(TASKS)))]
            other = other_task(task, tuple(TASKS.values()), self._rng)
            assert other is not None  # there are four
            kind = str(self._rng.choice(list(KINDS), p=list(KINDS.values())))
            draft = self._compose(kind, task, other)
            pose = Pose(draft.end_effector, self._quaternion())
            solution = self._kinematics.inverse(pose, self._description.home)
            if solution.converged and _visible(draft.end_effector):
                break
        self._apply(draft, solution.joints)
        return RandomSample(
            image=self._renderer.colour(self._data),
            masks=self._renderer.masks(self._data) if masks else None,
            kind=kind,
            positions=draft.positions,
            end_effector_position=draft.end_effector,
            end_effector_quaternion=pose.quaternion,
            opening=float(np.clip(self._description.gripper.fraction(draft.metres), 0.0, 1.0)),
            held=draft.held,
            actions={each.name: expert.plan(_situation(draft, pose, each), each) for each in (task, other)},
        )

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def _compose(self, kind: str, task: Task, other: Task) -> _Draft:
        placements = place_objects((task, other), self._rng, self._cell.layout)
        positions = {placement.name: placement.position for placement in placements}
        quaternions = {placement.name: placement.quaternion for placement in placements}
        draft = _Draft(positions, quaternions, self._free_position(), self._any_opening())
        getattr(self, f"_{kind}")(draft, task)
        return draft

    def _free(self, draft: _Draft, task: Task) -> None:
        """Anywhere above the objects; a third of them around the home pose, where every episode starts."""
        if self._rng.random() < 0.33:
            home = self._kinematics.forward(self._description.home).position
            draft.end_effector = home + self._rng.normal(0.0, 0.02, 3)
            draft.metres = self._description.gripper.open

    def _approach(self, draft: _Draft, task: Task) -> None:
        """On the way to the source, around the expert's funnel."""
        grasp = _grasp_point(draft, task)
        offset = self._rng.normal(0.0, self._rng.choice([0.012, 0.03, 0.06]), 2)
        height = (expert.TRAVEL_HEIGHT - grasp[2]) * expert.slope(float(np.hypot(*offset)))
        height += abs(self._rng.normal(0.0, 0.025)) - 0.004
        if abs(offset[1]) > 0.012:  # a finger here would stand in the object
            height = max(height, 0.035)
        draft.end_effector = grasp + np.array([*offset, max(height, -0.001)])
        draft.metres = self._mostly_open()

    def _grasp(self, draft: _Draft, task: Task) -> None:
        """At the grasp, with the fingers anywhere between open and closed on the source."""
        offset = np.clip(self._rng.normal(0.0, [0.006, 0.005, 0.005]), -0.012, 0.012)
        draft.end_effector = _grasp_point(draft, task) + offset
        draft.end_effector[2] = max(draft.end_effector[2], 0.018)
        closed = _grip_metres(task) + abs(offset[1]) * 0.5
        draft.metres = self._rng.uniform(closed, self._description.gripper.open)
        if self._rng.random() < 0.5:
            draft.metres = self._description.gripper.open

    def _lift(self, draft: _Draft, task: Task) -> None:
        """Held, at or above the place where the source lay."""
        start = _grasp_point(draft, task)
        draft.end_effector = start + np.append(self._rng.normal(0.0, 0.006, 2), self._rng.uniform(0.0, 0.09))
        self._hold(draft, task)

    def _carry(self, draft: _Draft, task: Task) -> None:
        """Held, anywhere at travel height."""
        draft.end_effector[2] = expert.TRAVEL_HEIGHT + self._rng.normal(0.0, 0.015)
        self._hold(draft, task)

    def _lower(self, draft: _Draft, task: Task) -> None:
        """Held, above the target around the funnel, down to where it is let go."""
        hold = self._hold_offset(task)
        offset = self._rng.normal(0.0, self._rng.choice([0.008, 0.02, 0.05]), 2)
        bottom = expert.release_height(task) - hold[2]
        top = max(expert.TRAVEL_HEIGHT, bottom + 0.02)
        height = bottom + (top - bottom) * expert.slope(float(np.hypot(*offset)))
        height += abs(self._rng.normal(0.0, 0.02)) - 0.003
        place = draft.positions[task.target] - np.array([hold[0], hold[1], 0.0])
        draft.end_effector = place + np.array([*offset, max(height, bottom - 0.003)])
        self._hold(draft, task, hold)

    def _placed(self, draft: _Draft, task: Task) -> None:
        """Let go: the source lies on the target, the open gripper is around or above it."""
        radius = 0.5 * expert.placing_radius(task)
        source = draft.positions[task.target] + np.append(self._rng.uniform(-radius, radius, 2), 0.0)
        source[2] += expert.support_height(task) + task.source_shape.rest_height
        draft.positions[task.source] = source
        draft.quaternions[task.source] = self._yaw(0.15)
        lift = self._rng.choice([0.003, self._rng.uniform(0.003, 0.1)])
        lowest = draft.positions[task.target][2] + expert.release_height(task)
        draft.end_effector = np.array([source[0], source[1], max(source[2], lowest) + lift])
        draft.end_effector[:2] += self._rng.normal(0.0, 0.006, 2)
        draft.metres = self._rng.uniform(_grip_metres(task) + 0.005, self._description.gripper.open)

    def _hold_offset(self, task: Task) -> np.ndarray:
        """Draw where a gripped source is from the end effector (3,) m: below it, as when it was gripped."""
        rest = task.source_shape.rest_height
        below = expert.grasp_point(np.array([0.0, 0.0, rest]), expert.grip_of(task))[2] - rest
        return np.array([0.0, 0.0, -below]) + np.clip(
            self._rng.normal(0.0, [0.004, 0.0003, 0.002]), -0.01, 0.01
        )

    def _hold(self, draft: _Draft, task: Task, offset: np.ndarray | None = None) -> None:
        """Put the source between the closed fingers, a little off the middle as after a real grasp."""
        draft.positions[task.source] = draft.end_effector + (
            self._hold_offset(task) if offset is None else offset
        )
        draft.quaternions[task.source] = self._yaw(0.05)
        draft.metres = _grip_metres(task) + abs(self._rng.normal(0.0, 0.0007))
        draft.held = task.source

    def _free_position(self) -> np.ndarray:
        return self._rng.uniform([0.20, -0.17, 0.06], [0.42, 0.17, 0.22])

    def _any_opening(self) -> float:
        limits = self._description.gripper
        if self._rng.random() < 0.6:
            return limits.open
        return limits.closed if self._rng.random() < 0.4 else self._rng.uniform(limits.closed, limits.open)

    def _mostly_open(self) -> float:
        return self._description.gripper.open if self._rng.random() < 0.85 else self._any_opening()

    def _yaw(self, deviation: float) -> np.ndarray:
        return np.asarray(Rotation.from_euler("z", self._rng.normal(0.0, deviation)).as_quat())

    def _quaternion(self) -> np.ndarray:
        """Straight down, in some samples a little turned, so that the correction is seen too."""
        if self._rng.random() > _TILTED_SHARE:
            return expert.DOWN.copy()
        turn = Rotation.from_rotvec(self._rng.normal(0.0, 0.04, 3))
        return np.asarray((turn * Rotation.from_quat(expert.DOWN)).as_quat(canonical=True))

    def _apply(self, draft: _Draft, joints: np.ndarray) -> None:
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._fingers] = [draft.metres, -draft.metres]
        for index, shape in enumerate(self._cell.shapes):
            name = shape.name
            position = draft.positions.get(name, parking_position(index, shape))
            set_object_pose(self._data, name, position, draft.quaternions.get(name, (0.0, 0.0, 0.0, 1.0)))
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)


def _visible(position: np.ndarray) -> bool:
    return bool(np.all(position >= VISIBLE[0]) and np.all(position <= VISIBLE[1]))


def _grasp_point(draft: _Draft, task: Task) -> np.ndarray:
    return expert.grasp_point(draft.positions[task.source], expert.grip_of(task))


def _grip_metres(task: Task) -> float:
    """Return the finger position (m) when it grips the task's source."""
    return expert.FINGER_INNER_OFFSET + expert.grip_of(task).half_width


def _situation(draft: _Draft, pose: Pose, task: Task) -> expert.Situation:
    return expert.Situation(
        end_effector_position=pose.position,
        end_effector_quaternion=pose.quaternion,
        opening=draft.metres,
        source_position=draft.positions[task.source],
        target_position=draft.positions[task.target],
    )
