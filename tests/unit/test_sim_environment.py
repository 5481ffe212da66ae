"""The environment: exact repetition, what it shows, what the expert reaches in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from grape_policy.arm.safety import ActionRefused
from grape_sim.environment import Observation, SimEnvironment
from grape_sim.expert import expert_action
from grape_sim.tasks import TASKS

START = "carrot_on_plate/eval/0001"


@pytest.fixture(scope="module")
def env():
    environment = SimEnvironment(depth=True)
    yield environment
    environment.close()


def same(a: Observation, b: Observation) -> bool:
    fields = dataclasses.fields(Observation)
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields)


def test_reset_and_replay_are_bit_identical_in_another_used_instance(env):
    first = [env.reset(START)]
    actions = []
    for _ in range(6):
        actions.append(expert_action(env))
        first.append(env.step(actions[-1]))
    other = SimEnvironment(depth=True)
    other.reset("stack_cube/train/0002")
    other.step(expert_action(other))
    second = [other.reset(START), *(other.step(action) for action in actions)]
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(env.get_state().physics, other.get_state().physics)
    other.close()


def test_a_saved_state_continues_bit_identically_also_in_the_middle_of_a_grasp(env):
    env.reset(START)
    for _ in range(8):
        env.step(expert_action(env))
    saved = env.get_state()
    actions, first = [], []
    for _ in range(4):
        actions.append(expert_action(env))
        first.append(env.step(actions[-1]))
    verdict = env.judge()
    env.reset("spoon_on_towel/train/0000")
    env.set_state(saved)
    assert all(same(a, env.step(action)) for a, action in zip(first, actions, strict=True))
    assert env.judge() == verdict


def test_different_initial_states_look_different(env):
    assert not np.array_equal(env.reset(START).image, env.reset("carrot_on_plate/eval/0002").image)


def test_an_observation_has_only_what_a_robot_could_measure(env):
    observation = env.reset(START)
    names = {field.name for field in dataclasses.fields(observation)}
    assert names == {
        "image", "depth", "stamp_ns", "joint_positions", "end_effector_position", "end_effector_quaternion",
    }  # fmt: skip
    assert observation.image.shape == (240, 320, 3)
    assert observation.image.dtype == np.uint8
    assert observation.depth is not None
    assert observation.depth.dtype == np.uint16
    assert observation.joint_positions.shape == (7,)


def test_one_step_takes_a_fifth_of_a_second_and_follows_the_command(env):
    start = env.reset(START)
    after = env.step(np.array([0.02, -0.03, 0.01, 0.0, 0.0, 0.0, 1.0]))
    assert after.stamp_ns - start.stamp_ns == 200_000_000
    moved = after.end_effector_position - start.end_effector_position
    assert moved == pytest.approx([0.02, -0.03, 0.01], abs=0.002)


def test_a_bad_action_is_refused_and_changes_nothing(env):
    env.reset(START)
    before = env.get_state().physics
    for action in (np.zeros(6), np.full(7, np.nan), np.full(7, 5.0)):
        with pytest.raises(ActionRefused):
            env.step(action)
    assert np.array_equal(before, env.get_state().physics)


def test_before_the_first_reset_and_for_an_absent_task_there_is_a_clear_error(env):
    with pytest.raises(RuntimeError, match="reset"):
        SimEnvironment().step(np.zeros(7))
    env.reset(START)
    absent = [name for name in TASKS if not _present(env, name)]
    assert len(absent) == 2
    for name in absent:
        with pytest.raises(ValueError, match="choose one of these tasks"):
            env.reset(START, task=name)


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_the_task_by_contact_without_a_collision(env, task):
    env.reset(f"{task}/eval/0004")
    steps = 0
    while not env.success_now and steps < 40:
        env.step(expert_action(env))
        steps += 1
    verdict = env.judge()
    assert verdict.success, verdict.message
    assert verdict.grasped
    assert verdict.collisions == 0


def test_the_expert_solves_the_other_task_on_the_table_too(env):
    env.reset(START)
    other = next(name for name in TASKS if name != env.task.name and _present(env, name))
    env.reset(START, task=other)
    for _ in range(40):
        env.step(expert_action(env))
        if env.success_now:
            break
    assert env.task.name == other
    assert env.judge().success


def _present(env: SimEnvironment, name: str) -> bool:
    return env.privileged()[TASKS[name].source][0][0] > 0.0
