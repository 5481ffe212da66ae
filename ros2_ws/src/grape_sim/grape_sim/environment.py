"""The simulated robot without ROS: the graph's physics, rendering and controller, as fast as the machine can.

One ``step`` is one policy action: 10 controller ticks of 20 ms, each 10 physics steps of 2 ms. Resetting to
the same initial state and stepping the same actions gives the same bits in every instance.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from grape_episodes import contract
from grape_policy.arm.controller import CartesianController, JointTarget
from grape_policy.arm.description import load_description
from grape_policy.arm.model import site_pose

from grape_sim.expert import Situation
from grape_sim.initial_state import InitialState
from grape_sim.judge import Judge, Record, Verdict
from grape_sim.scene import object_pose
from grape_sim.stage import Stage
from grape_sim.suite import Cell, Suite, Task, load_suite

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
    """One simulated robot at a table with the scenes of one suite. Not thread-safe; close it when done."""

    def __init__(self, *, suite: str | Path | Suite = "in_domain", depth: bool = False) -> None:
        """Prepare for initial states of ``suite``: a shipped name, a file, or a loaded one.

        Raises:
            SuiteError: there is no such suite, or its file is wrong.
        """
        self.suite = load_suite(suite)
        self._robot = load_description("wx250s")
        interpolation = float(contract.document()["control"]["interpolation_seconds"])
        self._controller = CartesianController(self._robot, interpolation_seconds=interpolation)
        self._ticks_per_step = round(contract.document()["control"]["period_seconds"] / TICK_SECONDS)
        self._stages: dict[tuple[str, ...], Stage] = {}
        self._stage = self._stage_of(next(iter(self.suite.cells.values())))
        self._substeps = round(TICK_SECONDS / self.model.opt.timestep)
        self._depth = depth
        self._start: InitialState | None = None

    @property
    def model(self) -> mujoco.MjModel:
        """The model of the present initial state's cell; do not change it."""
        return self._stage.model

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
        start = self.suite.sample(initial_state_id)
        self._task = self._choose_task(start, task)
        self._start = start
        cell = self.suite.cells[start.cell]
        self._stage = self._stage_of(cell)
        self._stage.put(start)
        self._controller.reset(self._robot.home, self._robot.gripper.open)
        self._judge = Judge(self._data, self._stage.reader, self._task, cell.collision)
        self._ticks = -SETTLE_TICKS
        for target in self._plan(SETTLE_TICKS):
            self._drive(target)
        self._judge.begin()

    def begin_judging(self, task: str | None = None) -> None:
        """Judge ``task`` (default: the one in the state's name) from now on; everything stays where it is.

        Raises:
            ValueError: the objects of ``task`` are not on the table.
        """
        self._task = self._choose_task(self._require_reset(), task)
        self._judge = Judge(self._data, self._stage.reader, self._task, self.cell.collision)
        self._judge.begin()

    def _choose_task(self, start: InitialState, task: str | None) -> Task:
        chosen = start.task if task is None else self.suite.find_task(task)
        shown = [each.name for each in (start.task, start.other_task) if each is not None]
        if chosen.name not in shown:
            raise ValueError(
                f"{start.initial_state_id} shows the objects of {' and '.join(shown)}; "
                f"choose one of these tasks instead of {chosen.name}"
            )
        return chosen

    def step(self, action: np.ndarray) -> Observation:
        """Carry out one action (7,) of 0.2 s and return what is seen afterwards.

        Raises:
            ActionRefused: the action has the wrong shape, is not finite or is beyond sensible limits.
        """
        self.act(action)
        return self.observe()

    def act(self, action: np.ndarray) -> None:
        """Do what ``step`` does, but render nothing."""
        self._require_reset()
        self._controller.command(action, self._ticks * TICK_SECONDS)
        for target in self._plan(self._ticks_per_step):
            self._drive(target)
            self._judge_tick()

    def advance(self, target: JointTarget) -> None:
        """Run one tick of 20 ms towards the joint target of a controller outside."""
        self._require_reset()
        self._drive(target)
        self._judge_tick()

    def measure(self) -> Measurement:
        """Return what the arm's encoders say, without rendering."""
        self._refresh()
        return self._measurement()

    def positions(self) -> np.ndarray:
        """Return a copy of MuJoCo's ``qpos``: all a renderer of the same model needs to draw this moment."""
        return self._data.qpos.copy()

    def observe(self) -> Observation:
        """Render the present state."""
        self._refresh()
        measured = self._measurement()
        renderer = self._stage.renderer
        return Observation(
            image=renderer.colour(self._data),
            depth=renderer.depth(self._data) if self._depth else None,
            stamp_ns=round(self._ticks * TICK_SECONDS * 1e9),
            joint_positions=measured.joint_positions,
            end_effector_position=measured.end_effector_position,
            end_effector_quaternion=measured.end_effector_quaternion,
        )

    def judge(self) -> Verdict:
        """Return the verdict on the episode since the reset."""
        self._require_reset()
        return self._judge.verdict()

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
        """What the robot is told: the initial state's words, or another judged task's default wording."""
        start = self._require_reset()
        return start.instruction if self._task.name == start.task.name else self._task.instruction

    @property
    def initial_state_id(self) -> str:
        """The name of the initial state of the last reset."""
        return self._require_reset().initial_state_id

    @property
    def cell(self) -> Cell:
        """The cell of the suite that the initial state belongs to."""
        return self.suite.cells[self._require_reset().cell]

    @property
    def camera(self) -> contract.Camera:
        """The camera of the present initial state: the contract's, unless the cell nudges it."""
        return self._stage.camera

    def privileged(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return each object's position (3,) and quaternion xyzw (4,): for tests, expert and labels only."""
        self._refresh()
        return {shape.name: object_pose(self._data, shape.name) for shape in self.cell.shapes}

    def situation(self, task: Task) -> Situation:
        """Return what the expert looks at for ``task``; privileged like the object poses."""
        self._refresh()
        position, quaternion = site_pose(self._stage.end_effector)
        source, target = object_pose(self._data, task.source)[0], object_pose(self._data, task.target)[0]
        names = self._require_reset().obstacles
        return Situation(
            position,
            quaternion,
            self._opening(),
            source,
            target,
            source_up=float(self._data.body(task.source).xmat[8]),
            obstacles=self._stage.obstacles(names),
        )

    def get_state(self) -> State:
        """Return a copy of the whole state, to come back to with ``set_state``."""
        start = self._require_reset()
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self._data, physics, kind)
        controller = copy.copy(self._controller)
        return State(start.initial_state_id, self._task, physics, controller, self._judge.record, self._ticks)

    def set_state(self, state: State) -> None:
        """Return to a saved state; what follows is bit-identical to what followed it then."""
        if self._start is None or self._start.initial_state_id != state.initial_state_id:
            self.reset_scene(state.initial_state_id)  # another model and another look, maybe
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._task, self._ticks = state.task, state.ticks
        mujoco.mj_setState(self.model, self._data, state.physics, kind)
        mujoco.mj_forward(self.model, self._data)  # contacts for the judge, poses for the camera
        mujoco.mj_setState(self.model, self._data, state.physics, kind)
        self._controller = copy.copy(state.controller)
        self._judge = Judge(self._data, self._stage.reader, state.task, self.cell.collision)
        self._judge.record = state.record

    def close(self) -> None:
        """Free the renderers."""
        for stage in self._stages.values():
            stage.close()

    @property
    def data(self) -> mujoco.MjData:
        """The physics state of the present cell; for tests that disturb the scene."""
        return self._stage.data

    @property
    def _data(self) -> mujoco.MjData:
        return self._stage.data

    def _stage_of(self, cell: Cell) -> Stage:
        """Return the scene of the cell; cells with the same objects that look the same share one."""
        key = (cell.name if cell.visual else "", *(shape.name for shape in cell.shapes))
        if key not in self._stages:
            self._stages[key] = Stage(cell, self._robot)
        return self._stages[key]

    def _plan(self, ticks: int) -> list[JointTarget]:
        """Return the controller's targets of the next ``ticks`` at once: it looks at no measurement."""
        return [self._controller.tick((self._ticks + i) * TICK_SECONDS) for i in range(ticks)]

    def _drive(self, target: JointTarget) -> None:
        stage = self._stage
        stage.control[:6] = target.joints
        stage.control[6] = target.gripper_m
        mujoco.mj_step(stage.model, stage.data, self._substeps)
        self._ticks += 1

    def _judge_tick(self) -> None:
        self._judge.observe(TICK_SECONDS)
        if self._ticks % self._ticks_per_step == 0:
            self._judge.end_step()

    def _refresh(self) -> None:
        """Bring body, site and camera poses up to the joints after the last physics step."""
        self._require_reset()
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)

    def _measurement(self) -> Measurement:
        joints = [*self._stage.positions[self._stage.joints].tolist(), self._opening()]
        return Measurement(np.array(joints), *site_pose(self._stage.end_effector))

    def _opening(self) -> float:
        left, right = self._stage.positions[self._stage.fingers].tolist()
        return (left - right) / 2.0

    def _require_reset(self) -> InitialState:
        if self._start is None:
            raise RuntimeError("the environment has no state yet: call reset(initial_state_id) first")
        return self._start
