"""The simulated robot without ROS: the graph's physics, rendering and controller, as fast as the machine can.

One ``step`` is one policy action: 10 controller ticks of 20 ms, each 10 physics steps of 2 ms. Resetting to
the same initial state and stepping the same actions gives the same bits in every instance.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mujoco
import numpy as np
from grape_episodes import contract
from grape_policy.arm.controller import CartesianController, JointTarget
from grape_policy.arm.description import load_description
from grape_policy.arm.model import end_effector_pose

from grape_sim.expert import Situation
from grape_sim.initial_state import sample
from grape_sim.judge import Judge, Record, Verdict
from grape_sim.objects import OBJECTS
from grape_sim.rendering import CameraRenderer
from grape_sim.scene import object_pose, parking_position, set_object_pose, shared_model
from grape_sim.tasks import Task, find_task

TICK_SECONDS = 0.02
SETTLE_TICKS = 5


@dataclass(frozen=True)
class Observation:
    """What a robot would see. No field knows anything about the objects but through the camera.

    image: (240, 320, 3) uint8 RGB. depth: (240, 320) uint16 mm or None. stamp_ns: simulated time.
    joint_positions: (7,) six joints in rad, then the gripper in m of one finger. end_effector_*: (3,) m and
    quaternion xyzw (4,) in the base frame.
    """

    image: np.ndarray
    depth: np.ndarray | None
    stamp_ns: int
    joint_positions: np.ndarray
    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray


@dataclass(frozen=True)
class Measurement:
    """What the arm's encoders say; fields as in ``Observation``."""

    joint_positions: np.ndarray
    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray


@dataclass(frozen=True)
class State:
    """Everything that decides what happens next; opaque to callers."""

    initial_state_id: str
    task: Task
    physics: np.ndarray
    controller: CartesianController
    record: Record
    ticks: int


class SimEnvironment:
    """One simulated robot at a table. Not thread-safe; close it when done."""

    def __init__(self, *, depth: bool = False) -> None:
        self._model = shared_model()
        self._data = mujoco.MjData(self._model)
        self._description = load_description("wx250s")
        interpolation = float(contract.document()["control"]["interpolation_seconds"])
        self._controller = CartesianController(self._description, interpolation_seconds=interpolation)
        self._joints = [self._model.joint(name).qposadr[0] for name in self._description.joints]
        self._fingers = [self._model.joint(name).qposadr[0] for name in ("left_finger", "right_finger")]
        self._substeps = round(TICK_SECONDS / self._model.opt.timestep)
        self._ticks_per_step = round(contract.document()["control"]["period_seconds"] / TICK_SECONDS)
        self._renderer: CameraRenderer | None = None
        self._depth = depth
        self._id: str | None = None

    def reset(self, initial_state_id: str, task: str | None = None) -> Observation:
        """Put everything where the named initial state says and let it settle.

        ``task``: judge another task than the one in the name; its objects must be on the table.

        Raises:
            ValueError: unknown name, or the objects of ``task`` are not in this initial state.
        """
        self.reset_scene(initial_state_id, task)
        return self.observe()

    def reset_scene(self, initial_state_id: str, task: str | None = None) -> None:
        """Do what ``reset`` does, but render nothing."""
        start = sample(initial_state_id)
        chosen = start.task if task is None else find_task(task)
        if chosen not in (start.task, start.other_task):
            raise ValueError(
                f"{initial_state_id} shows the objects of {start.task.name} and {start.other_task.name}; "
                f"choose one of these tasks instead of {chosen.name}"
            )
        self._id, self._task = initial_state_id, chosen
        mujoco.mj_resetData(self._model, self._data)
        home, gripper = self._description.home, self._description.gripper.open
        self._data.qpos[self._joints] = home
        self._data.qpos[self._fingers] = [gripper, -gripper]
        self._park_objects()
        for placement in start.placements:
            set_object_pose(self._data, placement.name, placement.position, placement.quaternion)
        self._controller.reset(home, gripper)
        self._judge = Judge(self._model, chosen)
        self._ticks = -SETTLE_TICKS
        for _ in range(SETTLE_TICKS):
            self._tick()
        self._judge.record = Record()

    def step(self, action: np.ndarray) -> Observation:
        """Carry out one action (7,) of 0.2 s and return what is seen afterwards.

        Raises:
            ActionRefused: the action has the wrong shape, is not finite or is beyond sensible limits.
        """
        self._require_reset()
        self._controller.command(action, self._ticks * TICK_SECONDS)
        for _ in range(self._ticks_per_step):
            self._tick()
            self._judge_tick()
        return self.observe()

    def advance(self, target: JointTarget) -> None:
        """Run one tick of 20 ms towards the joint target of a controller outside."""
        self._require_reset()
        self._drive(target)
        self._judge_tick()

    def measure(self) -> Measurement:
        """Return what the arm's encoders say, without rendering."""
        self._refresh()
        joints = np.append(self._data.qpos[self._joints], self._opening())
        return Measurement(joints, *end_effector_pose(self._model, self._data))

    def positions(self) -> np.ndarray:
        """Return a copy of MuJoCo's ``qpos``: all a renderer of the same model needs to draw this moment."""
        return self._data.qpos.copy()

    def observe(self) -> Observation:
        """Render the present state."""
        self._refresh()
        if self._renderer is None:
            self._renderer = CameraRenderer(self._model)
        measured = self.measure()
        return Observation(
            image=self._renderer.colour(self._data),
            depth=self._renderer.depth(self._data) if self._depth else None,
            stamp_ns=round(self._ticks * TICK_SECONDS * 1e9),
            joint_positions=measured.joint_positions,
            end_effector_position=measured.end_effector_position,
            end_effector_quaternion=measured.end_effector_quaternion,
        )

    def judge(self) -> Verdict:
        """Return the verdict on the episode since the reset."""
        self._require_reset()
        return self._judge.verdict(self._data)

    @property
    def success_now(self) -> bool:
        """Whether the task is done at this moment."""
        self._require_reset()
        return self._judge.success

    @property
    def task(self) -> Task:
        """The task that is judged."""
        self._require_reset()
        return self._task

    @property
    def instruction(self) -> str:
        """The task's default wording."""
        return self.task.instruction

    @property
    def initial_state_id(self) -> str:
        """The name of the initial state of the last reset."""
        self._require_reset()
        return str(self._id)

    def privileged(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return each object's position (3,) and quaternion xyzw (4,): for tests, expert and labels only."""
        self._refresh()
        return {name: object_pose(self._data, name) for name in OBJECTS}

    def situation(self, task: Task) -> Situation:
        """Return what the expert looks at for ``task``; privileged like the object poses."""
        self._refresh()
        position, quaternion = end_effector_pose(self._model, self._data)
        source, target = object_pose(self._data, task.source)[0], object_pose(self._data, task.target)[0]
        return Situation(position, quaternion, self._opening(), source, target)

    def get_state(self) -> State:
        """Return a copy of the whole state, to come back to with ``set_state``."""
        self._require_reset()
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, physics, kind)
        controller = copy.copy(self._controller)
        return State(str(self._id), self._task, physics, controller, self._judge.record, self._ticks)

    def set_state(self, state: State) -> None:
        """Return to a saved state; what follows is bit-identical to what followed it then."""
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._id, self._task, self._ticks = state.initial_state_id, state.task, state.ticks
        mujoco.mj_setState(self._model, self._data, state.physics, kind)
        mujoco.mj_forward(self._model, self._data)  # contacts for the judge, poses for the camera
        mujoco.mj_setState(self._model, self._data, state.physics, kind)
        self._controller = copy.copy(state.controller)
        self._judge = Judge(self._model, state.task)
        self._judge.record = state.record

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _tick(self) -> None:
        self._drive(self._controller.tick(self._ticks * TICK_SECONDS))

    def _drive(self, target: JointTarget) -> None:
        self._data.ctrl[:6] = target.joints
        self._data.ctrl[6] = target.gripper_m
        mujoco.mj_step(self._model, self._data, self._substeps)
        self._ticks += 1

    def _judge_tick(self) -> None:
        self._judge.observe(self._data, TICK_SECONDS)
        if self._ticks % self._ticks_per_step == 0:
            self._judge.end_step()

    def _refresh(self) -> None:
        """Bring body, site and camera poses up to the joints after the last physics step."""
        self._require_reset()
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _opening(self) -> float:
        left, right = self._data.qpos[self._fingers]
        return float((left - right) / 2.0)

    def _park_objects(self) -> None:
        for index, name in enumerate(OBJECTS):
            set_object_pose(self._data, name, parking_position(index), (0.0, 0.0, 0.0, 1.0))

    def _require_reset(self) -> None:
        if self._id is None:
            raise RuntimeError("the environment has no state yet: call reset(initial_state_id) first")
