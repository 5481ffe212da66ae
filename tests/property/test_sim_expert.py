"""The expert's rule for any situation, also impossible ones: bounded, repeatable, in the right direction."""

from __future__ import annotations

import numpy as np
from grape_sim.expert import DOWN, MAX_STEP, MAX_TURN, Situation, plan
from grape_sim.suite import load_suite
from grape_sim.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation


def points(z_low: float, z_high: float):
    x, y, z = st.floats(0.15, 0.45), st.floats(-0.25, 0.25), st.floats(z_low, z_high)
    return st.tuples(x, y, z).map(np.array)


turns = st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(lambda turn: Rotation.from_rotvec(turn))
situations = st.builds(
    lambda hand, turn, opening, source, target: Situation(
        hand, (turn * Rotation.from_quat(DOWN)).as_quat(), opening, source, target
    ),
    points(0.018, 0.3), turns, st.floats(0.015, 0.037), points(0.005, 0.2), points(0.0, 0.05),
)  # fmt: skip
tasks = st.sampled_from(list(TASKS.values()))
all_tasks = st.sampled_from(list(load_suite("unseen_action").tasks.values()))


@given(situations, all_tasks)
def test_every_action_is_finite_bounded_and_repeatable(now, task):
    action = plan(now, task)
    assert action.shape == (7,)
    assert np.all(np.isfinite(action))
    assert np.linalg.norm(action[:3]) <= MAX_STEP + 1e-9
    assert np.linalg.norm(action[3:6]) <= MAX_TURN + 1e-9
    assert action[6] in (0.0, 1.0)
    assert np.array_equal(action, plan(now, task))


@given(situations, tasks)
def test_a_turned_gripper_is_turned_back_to_straight_down(now, task):
    def tilt(quaternion) -> float:
        return float((Rotation.from_quat(DOWN) * Rotation.from_quat(quaternion).inv()).magnitude())

    turned = Rotation.from_rotvec(plan(now, task)[3:6]) * Rotation.from_quat(now.end_effector_quaternion)
    before = tilt(now.end_effector_quaternion)
    assert tilt(turned.as_quat()) <= max(before - 0.9 * min(MAX_TURN, before), 0.021)


@given(points(0.06, 0.3), points(0.006, 0.02), points(0.0, 0.0), tasks)
def test_an_empty_open_gripper_approaches_the_source_and_stays_open(hand, source, target, task):
    now = Situation(hand, DOWN, 0.037, source, np.array([0.6, 0.4, 0.0]))
    action = plan(now, task)
    assert action[6] == 1.0
    before = np.hypot(*(source - hand)[:2])
    assert np.hypot(*(source - hand - action[:3])[:2]) <= before + 1e-9
