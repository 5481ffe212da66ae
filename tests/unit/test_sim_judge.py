"""The judge looks at contact and pose, and is not fooled by look-alikes of success."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action, is_held
from grape_sim.scene import object_pose, set_object_pose

FLAT = (0.0, 0.0, 0.0, 1.0)
STAY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def env():
    environment = SimEnvironment()
    yield environment
    environment.close()


def put(env: SimEnvironment, name: str, anchor: np.ndarray, offset, quaternion=FLAT) -> None:
    """Teleport an object, by hand and not by the robot."""
    set_object_pose(env._data, name, np.add(anchor, offset), quaternion)
    mujoco.mj_forward(env.model, env._data)


def place_of(env: SimEnvironment, name: str) -> np.ndarray:
    return object_pose(env._data, name)[0]


def lift_source(env: SimEnvironment, start: str) -> None:
    env.reset(start)
    for _ in range(25):
        env.step(expert_action(env))
        situation = env.situation(env.task)
        if is_held(situation, env.task) and situation.source_position[2] > 0.06:
            return
    raise AssertionError("the expert did not lift the source")


def test_an_untouched_scene_is_no_success(env):
    env.reset("carrot_on_plate/eval/0000")
    env.step(STAY)
    verdict = env.judge()
    assert (verdict.success, verdict.grasped, verdict.collisions) == (False, False, 0)
    assert "does not touch plate" in verdict.message


def test_a_source_laid_on_the_target_succeeds_only_after_resting(env):
    env.reset("carrot_on_plate/eval/0000")
    put(env, "carrot", place_of(env, "plate"), [0.0, 0.0, 0.020])
    assert not env.success_now
    env.step(STAY)
    assert env.success_now
    assert not env.judge().grasped


def test_a_source_held_above_or_on_the_target_is_no_success(env):
    lift_source(env, "carrot_on_plate/eval/0000")
    assert env.judge().grasped
    # Slide the target under the held source, so that it is touched: it is still in the gripper.
    under = place_of(env, "carrot") * [1.0, 1.0, 0.0]
    put(env, "plate", under, [0.0, 0.0, place_of(env, "carrot")[2] - 0.0205])
    assert not env.success_now
    assert "gripper" in env.judge().message


def test_half_on_the_plate_and_half_on_the_table_is_no_success(env):
    env.reset("carrot_on_plate/eval/0000")
    put(env, "carrot", place_of(env, "plate"), [0.0, 0.060, 0.030], (0.0, 0.0, 0.7071068, 0.7071068))
    for _ in range(3):
        env.step(STAY)
    assert not env.success_now


def test_a_cube_leaning_beside_the_other_cube_is_no_success(env):
    env.reset("stack_cube/eval/0000")
    put(env, "green_cube", place_of(env, "yellow_cube"), [0.0, 0.0324, -0.0025])
    env.step(STAY)
    assert not env.success_now


def test_a_fast_source_is_no_success(env):
    env.reset("eggplant_in_basket/eval/0000")
    put(env, "eggplant", place_of(env, "basket"), [0.0, 0.0, 0.0194])
    assert "not rested" in env.judge().message
    env._data.joint("eggplant").qvel[0] = 0.5
    mujoco.mj_forward(env.model, env._data)
    assert "still moves" in env.judge().message


def test_anything_below_the_rim_counts_in_the_basket_but_not_on_the_rim(env):
    env.reset("eggplant_in_basket/eval/0000")
    basket = place_of(env, "basket")
    put(env, "eggplant", basket, [0.02, 0.01, 0.020])
    env.step(STAY)
    assert env.success_now
    env.reset("eggplant_in_basket/eval/0000")
    put(env, "eggplant", basket, [0.058, 0.0, 0.045])
    assert not env.success_now
    assert not env.judge().success


def test_the_other_tasks_source_on_the_target_is_no_success(env):
    start = "carrot_on_plate/eval/0000"
    env.reset(start)
    other = next(name for name in ("eggplant", "green_cube", "spoon") if place_of(env, name)[0] > 0.0)
    put(env, other, place_of(env, "plate"), [0.0, 0.0, 0.025])
    env.step(STAY)
    env.step(STAY)
    assert not env.success_now


def test_taking_the_source_away_again_ends_the_success(env):
    env.reset("spoon_on_towel/eval/0000")
    put(env, "spoon", place_of(env, "towel"), [0.0, 0.0, 0.0112])
    env.step(STAY)
    assert env.success_now
    put(env, "spoon", np.zeros(3), [-0.5, 0.9, 0.006])
    env.step(STAY)
    assert not env.success_now


def test_driving_the_gripper_into_a_stranger_counts_each_step_as_a_collision(env):
    env.reset("carrot_on_plate/eval/0000")
    other = next(name for name in ("basket", "yellow_cube", "towel") if place_of(env, name)[0] > 0.0)
    for _ in range(12):
        goal = np.add(place_of(env, other), [0.0, 0.012, 0.02])
        error = goal - env.situation(env.task).end_effector_position
        action = STAY.copy()
        action[:3] = error * min(1.0, 0.04 / np.linalg.norm(error))
        action[6] = 0.0
        env.step(action)
    verdict = env.judge()
    assert verdict.collisions >= 1
    assert not verdict.success
