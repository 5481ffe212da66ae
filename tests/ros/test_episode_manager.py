"""The episode manager and the recorder as processes; policy, arm, scene and camera are played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from fake_stack import Graph, Sensors, Stack, folders
from grape_episodes.catalogue import Catalogue
from grape_episodes.reader import read_episode, read_manifest
from grape_policy.collection.rollouts import rollout_seed
from grape_policy.nodes import base

pytestmark = pytest.mark.ros
STATE = "carrot_on_plate/train/0042"


class Rig(Graph):
    """The two processes, the played stack and a client of each action."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.recorder = self.launch("recorder_node", episodes_folder=root)
        self.launch(
            "episode_manager_node", episodes_folder=root, stall_seconds=1.0, service_timeout_seconds=5.0
        )
        self.stack = Stack(self.node, Sensors(self.node))
        self.feedback: list[Any] = []

    def send(self, key: str, **fields: Any) -> Any:
        """Send a goal and return its handle."""
        client = base.action_client(self.node, key)
        assert self.spin_until(client.server_is_ready, 20.0), f"{key} is not served"
        goal = client._action_type.Goal(**fields)
        return self.wait(client.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))

    def run(self, **fields: Any) -> Any:
        """Run one episode; return its result."""
        handle = self.send("run_episode", task="carrot_on_plate", initial_state_id=STATE, **fields)
        return self.wait(handle.get_result_async()).result

    def collect(self, **fields: Any) -> Any:
        goal = {
            "tasks": ["carrot_on_plate"] * 2,
            "initial_state_ids": [STATE, STATE[:-1] + "3"],
            "rollouts": 1,
        }
        return self.send("collect", **(goal | {"max_steps": 3, "seed": 5, "temperature": 0.5} | fields))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, ros_environment: dict[str, str]) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("manager") / "episodes")
    yield rig
    rig.close()


@pytest.fixture
def rig(processes: Rig) -> Rig:
    """Return the running processes with a played stack that behaves well."""
    processes.feedback.clear()
    processes.stack.behave()
    return processes


def test_an_episode_ends_at_the_step_limit_or_when_the_judge_sees_success(rig: Rig) -> None:
    failure = rig.run(max_steps=6, temperature=0.5, seed=3)
    assert (failure.outcome, failure.success, failure.steps) == ("failure", False, 6)
    order = [call for call in rig.stack.calls if call != "judge"]
    assert order == ["policy off", "disarm", "reset", "arm", "policy on", "policy off", "disarm"]
    assert {message.phase for message in rig.feedback} == {"resetting", "running", "judging"}
    episode = read_episode(Path(failure.path))
    assert episode.steps == 6
    assert episode.manifest.instruction == "put it there"
    assert (episode.manifest.policy_version, episode.manifest.seed) == ("test-0123abcd", 3)

    rig.stack.succeed_at = 7
    success = rig.run(max_steps=30)
    assert (success.outcome, success.success) == ("success", True)
    assert 7 <= success.steps < 30, "the judge is asked on the way"
    assert read_manifest(Path(success.path)).grasped


def test_each_way_to_fail_has_its_own_reason_and_closes_the_episode(rig: Rig) -> None:
    rig.stack.stop_at = 3
    stopped = rig.run(max_steps=20)
    assert (stopped.outcome, stopped.reason) == ("stopped", "the workspace ends here")
    assert read_manifest(Path(stopped.path)).reason == stopped.reason
    at_once = rig.run(max_steps=20)  # stops again before the policy begins, perhaps before ARMED was seen
    assert (at_once.outcome, at_once.reason) == ("stopped", "the workspace ends here")
    rig.stack.behave()

    rig.stack.mute_at = 2
    stalled = rig.run(max_steps=20)
    assert stalled.outcome == "aborted"
    assert "sent no action for 1 s" in stalled.reason
    assert read_manifest(Path(stalled.path)).outcome == "aborted"
    rig.stack.behave()

    rig.stack.reset_message = "no such state"
    refused = rig.run(max_steps=20)
    assert (refused.outcome, refused.path) == ("aborted", "")
    assert "/grape/scene/reset refused: no such state" in refused.reason
    assert all(not name.endswith(".part") for name in folders(rig.root))


def test_cancel_closes_the_episode_and_a_second_goal_is_rejected(rig: Rig) -> None:
    handle = rig.send("run_episode", task="carrot_on_plate", initial_state_id=STATE, max_steps=40)
    assert rig.spin_until(lambda: rig.stack.sensors.step >= 3, 20.0)
    assert not rig.send("run_episode", task="carrot_on_plate", initial_state_id=STATE).accepted
    rig.wait(handle.cancel_goal_async())
    answer = rig.wait(handle.get_result_async())
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert (answer.result.outcome, answer.result.reason) == ("aborted", "cancelled by request")
    assert not rig.stack.armed
    assert read_manifest(Path(answer.result.path)).outcome == "aborted"


def test_collect_runs_every_rollout_and_resumes_after_a_cancel(rig: Rig) -> None:
    handle = rig.collect(rollouts=2)
    assert rig.spin_until(lambda: len(rig.feedback) >= 1, 30.0)
    assert rig.spin_until(lambda: rig.stack.sensors.acting and rig.stack.sensors.step >= 1, 20.0)
    rig.wait(handle.cancel_goal_async())
    assert rig.wait(handle.get_result_async()).result.message == "cancelled by request"
    assert all(not name.endswith(".part") for name in folders(rig.root))

    first = rig.feedback[0].episode_id
    rig.feedback.clear()
    again = rig.wait(rig.collect(rollouts=2).get_result_async(), 60.0).result
    assert (again.episodes, again.message) == (4, "")
    assert first in again.episode_ids
    assert [message.done for message in rig.feedback] == [2, 3, 4]
    entries = {entry.episode_id: entry for entry in Catalogue(rig.root / "catalogue.sqlite").episodes()}
    seeds = {(entries[name].initial_state_id, entries[name].seed) for name in again.episode_ids}
    states = (STATE, STATE[:-1] + "3")
    assert seeds == {(state, rollout_seed(5, state, index)) for state in states for index in range(2)}


def test_collect_refuses_a_request_that_makes_no_sense(rig: Rig) -> None:
    answer = rig.wait(rig.collect(tasks=["carrot_on_plate"]).get_result_async())
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert "1 tasks for 2 initial states" in answer.result.message


def test_a_killed_recorder_costs_one_episode_and_its_successor_saves_what_was_written(rig: Rig) -> None:
    handle = rig.send("run_episode", task="carrot_on_plate", initial_state_id=STATE, max_steps=8)
    assert rig.spin_until(lambda: rig.stack.sensors.step >= 6, 30.0)
    rig.recorder.kill()
    rig.recorder.wait(timeout=10)
    lost = rig.wait(handle.get_result_async(), 40.0).result
    assert (lost.outcome, lost.path) == ("aborted", "")
    assert "recording could not be closed" in lost.reason
    assert not rig.stack.armed

    rig.recorder = rig.launch("recorder_node", episodes_folder=rig.root)
    saved = rig.root / lost.episode_id
    assert rig.spin_until(saved.is_dir, 40.0)
    assert read_manifest(saved).reason.startswith("recovered")
    rig.stack.behave()
    outcomes = (rig.run(max_steps=3).outcome for _ in range(3))  # the dead one may still be asked at first
    assert "failure" in outcomes, "the next episode is recorded again"
