"""Action chunks in the controller: what is carried out, when, and how one goes over into the next."""

from __future__ import annotations

import numpy as np
import pytest
from grape_policy.arm.chunk import Begun, Chunk, Fade, make_chunk, segment_between
from grape_policy.arm.controller import CartesianController
from grape_policy.arm.description import load_description
from grape_policy.arm.kinematics import Pose, rotated, rotation_between
from grape_policy.arm.safety import ActionRefused

ROBOT = load_description()
TICK, PERIOD = 0.01, 0.1


def chunk(*steps: tuple[float, float, float], name: object = None, period: float = PERIOD) -> Chunk:
    return make_chunk([[*step, 0.0, 0.0, 0.0, 1.0] for step in steps], period, name)


class Run:
    """A controller, its clock, where its end effector was commanded at each tick, and what began."""

    def __init__(self) -> None:
        self.controller, self.now, self.ticks = CartesianController(ROBOT), 0.0, 0
        self.start = self.controller.target_pose.position
        self.track: list[np.ndarray] = []
        self.begun: list[Begun] = []

    def until(self, seconds: float) -> None:
        while self.now < seconds - TICK / 2:
            self.ticks += 1
            self.now = self.ticks * TICK
            joints = self.controller.tick(self.now).joints
            self.track.append(self.controller.pose_of(joints).position - self.start)
            self.begun += self.controller.take_begun()


def test_a_chunk_is_carried_out_action_by_action_at_its_period() -> None:
    run = Run()
    end = run.controller.command_chunk(chunk((0.02, 0, 0), (0, 0.02, 0), (0, 0, 0.02)), 0.0)
    assert end == pytest.approx(3 * PERIOD)
    for k in range(3):
        run.until((k + 1) * PERIOD)
        assert [begun.row for begun in run.begun] == list(range(k + 1))
    run.until(0.6)
    np.testing.assert_allclose(run.track[-1], [0.02, 0.02, 0.02], atol=3e-4)
    assert all(begun.followed for begun in run.begun)


def test_motion_does_not_pause_between_the_actions_of_a_chunk() -> None:
    run = Run()
    run.controller.command_chunk(chunk(*[(0.01, 0, 0)] * 8), 0.0)
    run.until(0.8)
    speed = np.diff(np.array(run.track)[:, 0])[15:-5] / TICK
    np.testing.assert_allclose(speed, 0.1, rtol=0.1)


def test_the_next_chunk_begins_with_the_end_of_the_present_action() -> None:
    run = Run()
    run.controller.command_chunk(chunk(*[(0.02, 0, 0)] * 6, name="old"), 0.0)
    run.until(0.25)  # in the third action
    run.controller.command_chunk(chunk(*[(0, 0.02, 0)] * 3, name="new"), run.now)
    run.until(1.0)
    assert [(begun.chunk.name, begun.row) for begun in run.begun] == [
        *(("old", row) for row in range(3)),
        *(("new", row) for row in range(3)),
    ]
    # Every action that began was carried out whole, and nothing of those that did not.
    np.testing.assert_allclose(run.track[-1], [0.06, 0.06, 0.0], atol=3e-4)


def test_the_fade_is_linear_in_time_and_holds_the_end_of_the_old_way() -> None:
    turn = rotated(np.array([0.0, 0.0, 0.4]), np.array([0.0, 0.0, 0.0, 1.0]))
    home = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    old = segment_between(home, Pose(np.array([0.1, 0.0, 0.0]), turn), 1.0, 0.1)
    fade, new = Fade((old,), 1.0, 0.2), Pose(np.array([0.0, 0.2, 0.0]), home.quaternion)
    np.testing.assert_allclose(fade.blended(new, 1.0).position, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(fade.blended(new, 1.05).position, [0.75 * 0.05, 0.25 * 0.2, 0.0])
    np.testing.assert_allclose(fade.blended(new, 1.15).position, [0.25 * 0.1, 0.75 * 0.2, 0.0])
    half = rotation_between(home.quaternion, fade.blended(new, 1.1).quaternion)
    np.testing.assert_allclose(half, [0.0, 0.0, 0.2], atol=1e-12)
    np.testing.assert_allclose(fade.blended(new, 1.2).position, new.position, atol=1e-12)
    assert not fade.over(1.19)
    assert fade.over(1.2)


def test_at_the_border_the_arm_goes_round_the_corner() -> None:
    run = Run()
    run.controller.command_chunk(chunk(*[(0.02, 0, 0)] * 6), 0.0)
    run.until(0.25)
    run.controller.command_chunk(chunk(*[(0, 0.02, 0)] * 6), run.now)
    run.until(0.6)
    track = np.array(run.track)
    assert track[30:, 0].max() > 0.062
    sideways = np.abs(np.diff(track[:, 1], n=2))  # no kick when the new chunk takes over
    assert sideways.max() < 5e-4


def test_only_the_newest_waiting_chunk_counts() -> None:
    run = Run()
    run.controller.command_chunk(chunk((0.02, 0, 0)), 0.0)
    run.until(0.05)
    run.controller.command_chunk(chunk((0, 0.02, 0), name="late"), run.now)
    run.controller.command_chunk(chunk((0, 0, 0.02), name="later"), run.now)
    run.until(0.6)
    np.testing.assert_allclose(run.track[-1], [0.02, 0.0, 0.02], atol=3e-4)


@pytest.mark.parametrize("end", ["action", "halt"])
def test_a_single_action_or_a_stop_ends_the_chunk(end: str) -> None:
    run = Run()
    run.controller.command_chunk(chunk(*[(0.02, 0, 0)] * 10), 0.0)
    run.until(0.2)
    if end == "halt":
        run.controller.halt()
    else:
        run.controller.command([0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 1.0], run.now)
    run.until(1.0)
    assert len(run.begun) == 2 or run.begun[-1].row == 2
    assert run.track[-1][0] < 0.065
    np.testing.assert_allclose(run.track[-1], run.track[-20], atol=1e-9)


def test_a_target_out_of_reach_is_not_followed_and_says_so() -> None:
    run = Run()
    low = [0.0, 0.0, 0.0, 0.0, 1.5, 0.0, 1.0]  # pitch that no pose of the wrist allows, several times over
    run.controller.command_chunk(make_chunk([low] * 12, PERIOD), 0.0)
    run.until(1.5)
    assert not all(begun.followed for begun in run.begun)
    assert run.controller.unreachable + run.controller.too_near > 0


def test_short_periods_make_short_steps() -> None:
    run = Run()
    run.controller.command_chunk(chunk(*[(0.05, 0, 0)] * 4, period=0.02), 0.0)
    run.until(0.6)
    assert run.track[-1][0] <= 4 * 0.05 * 0.02 / 0.1 + 3e-4


@pytest.mark.parametrize(
    ("actions", "period", "what"),
    [
        ([], 0.1, "0 actions"),
        ([[0.0] * 6], 0.1, "rows of 7"),
        ([[0.0] * 7] * 65, 0.1, "65 actions"),
        ([[0.0] * 7], 0.001, "period"),
        ([[0.0] * 7], float("nan"), "period"),
    ],
)
def test_chunks_that_are_none_are_refused(actions: list, period: float, what: str) -> None:
    with pytest.raises(ActionRefused, match=what):
        make_chunk(actions, period)


def test_one_bad_action_refuses_the_chunk() -> None:
    controller = CartesianController(ROBOT)
    with pytest.raises(ActionRefused, match="finite"):
        controller.command_chunk(make_chunk([[0.0] * 7, [np.nan] * 7], PERIOD), 0.0)
    controller.tick(0.01)
    assert controller.take_begun() == ()
