"""The initial-state check sees what moved; scripted motions scatter objects and come home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest
from grape_episodes import contract
from grape_policy.arm.description import load_description
from grape_policy.arm.kinematics import Pose
from grape_policy.collection.scene import References, Scene, View, judge_views, locate, worst_distance
from grape_policy.nodes import scripted_motion
from grape_policy.nodes.scripted_motion import Waypoint
from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action

ROBOT = load_description("wx250s")
STATE, TASK = "carrot_on_plate/collect/0003", "carrot_on_plate"


@pytest.fixture(scope="module")
def environment() -> Iterator[SimEnvironment]:
    made = SimEnvironment(depth=True)
    yield made
    made.close()


def look(environment: SimEnvironment) -> View:
    seen = environment.observe()
    assert seen.depth is not None
    return View(
        seen.image,
        seen.depth,
        ROBOT.joint_state_names,
        seen.joint_positions,
        seen.end_effector_position,
        seen.end_effector_quaternion,
        contract.camera().intrinsics,
    )


def move_carrot(environment: SimEnvironment, by: tuple[float, float, float]) -> None:
    address = int(environment.model.joint("carrot").qposadr[0])
    environment.data.qpos[address : address + 3] += by
    mujoco.mj_forward(environment.model, environment.data)


def test_a_reset_is_recognised_and_a_moved_object_is_not(environment: SimEnvironment) -> None:
    environment.reset_scene(STATE)
    first = locate(TASK, look(environment))
    assert first.unseen == []
    assert not first.done
    truth = environment.privileged()
    for name in ("carrot", "plate"):
        assert np.linalg.norm(first.positions[name] - truth[name][0]) < 0.02
    environment.reset_scene(STATE)
    assert worst_distance(locate(TASK, look(environment)), first.positions)[1] < 1e-6
    move_carrot(environment, (0.0, 0.05, 0.0))
    name, distance = worst_distance(locate(TASK, look(environment)), first.positions)
    assert (name, round(distance, 2)) == ("carrot", 0.05)


def test_an_object_that_is_gone_is_not_in_place(environment: SimEnvironment) -> None:
    environment.reset_scene(STATE)
    reference = locate(TASK, look(environment)).positions
    move_carrot(environment, (0.0, 0.0, -2.0))
    assert worst_distance(locate(TASK, look(environment)), reference)[1] > 0.02


def test_what_is_not_seen_is_infinitely_far() -> None:
    scene = Scene({"carrot": np.full(3, np.nan), "plate": np.zeros(3)}, done=False)
    assert scene.unseen == ["carrot"]
    assert worst_distance(scene, {"carrot": np.zeros(3), "plate": np.zeros(3)}) == ("carrot", float("inf"))


def test_a_task_that_is_done_already_is_noticed(environment: SimEnvironment) -> None:
    environment.reset_scene(STATE)
    place = environment.privileged()
    move_carrot(environment, tuple(place["plate"][0] - place["carrot"][0] + [0.0, 0.0, 0.022]))
    assert locate(TASK, look(environment)).done


def test_references_survive_a_restart(environment: SimEnvironment, tmp_path: Path) -> None:
    path = tmp_path / "initial_states.json"
    environment.reset_scene(STATE)
    scene = locate(TASK, look(environment))
    References(path).save(STATE, scene)
    again = References(path).find(STATE)
    assert again is not None
    assert worst_distance(scene, again)[1] < 2e-4
    assert References(path).find("stack_cube/collect/0000") is None


@pytest.mark.parametrize(("acts", "success"), [(True, True), (False, False)])
def test_an_episode_is_judged_from_its_views(environment: SimEnvironment, acts: bool, success: bool) -> None:
    environment.reset_scene(STATE)
    views, stamps = [look(environment)], [0]
    while len(views) < 45 and not environment.success_now:
        if acts:
            environment.act(expert_action(environment))
        views.append(look(environment))
        stamps.append(stamps[-1] + 200_000_000)
        if not acts and len(views) == 5:
            break
    assert environment.success_now == success
    assert judge_views(TASK, views, stamps)[0] == success


def drive(environment: SimEnvironment, goal: Waypoint, steps: int = 60) -> None:
    for _ in range(steps):
        measured = environment.measure()
        now = Pose(measured.end_effector_position, measured.end_effector_quaternion)
        if scripted_motion.arrived(now, goal):
            return
        environment.act(scripted_motion.action_towards(now, goal))
    pytest.fail(f"did not arrive at {goal.position}")


def test_scattering_moves_objects_keeps_them_in_reach_and_comes_home(environment: SimEnvironment) -> None:
    environment.reset_scene(STATE)
    before = environment.privileged()
    home = scripted_motion.home_waypoint(ROBOT)
    for waypoint in (*scripted_motion.scatter_waypoints(ROBOT, seed=2), home):
        inside = (waypoint.position >= ROBOT.workspace_lower) & (waypoint.position <= ROBOT.workspace_upper)
        assert inside.all()
        drive(environment, waypoint)
    after = environment.privileged()
    moved = max(float(np.linalg.norm(after[name][0] - before[name][0])) for name in ("carrot", "plate"))
    assert moved > 0.02
    for name in ("carrot", "plate"):
        assert np.linalg.norm(after[name][0][:2]) < 0.45, f"{name} was pushed out of reach"
    measured = environment.measure()
    assert np.linalg.norm(measured.end_effector_position - home.position) < scripted_motion.NEAR
