"""The keypoint judge as a process: it sees expert rollouts through topics alone and must call them right."""

from __future__ import annotations

from typing import Any

import pytest
from preference_rollouts import EarlyRelease, roll_out

pytestmark = pytest.mark.ros
pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

TASK = "carrot_on_plate"


@pytest.fixture(scope="module")
def judge(module_start: Any, module_probe: Any) -> Any:
    module_start("grape_policy.nodes.keypoint_judge_node", period=0.05)
    return module_probe


@pytest.fixture(scope="module")
def environment() -> Any:
    from grape_sim.environment import SimEnvironment

    environment = SimEnvironment(depth=True)
    yield environment
    environment.close()


def begin(probe: Any, task: str) -> None:
    from grape_msgs.msg import EpisodeEvent

    probe.publish("episode_event", EpisodeEvent(event=EpisodeEvent.STARTED, task=task))
    probe.spin(0.3)


def play(probe: Any, episode: Any) -> None:
    """Publish the episode as camera and arm would, faster than they."""
    from grape_episodes import contract
    from grape_policy.camera.types import Intrinsics
    from grape_policy.nodes.arm_messages import to_joint_state, to_pose
    from grape_policy.nodes.messages import to_camera_info, to_image

    height, width = episode.depths.shape[1:]
    intrinsics = Intrinsics(width, height, episode.camera.intrinsics)
    frames = contract.document()["frames"]
    camera_frame, base_frame = frames["camera"], frames["base"]
    probe.publish("camera_info", to_camera_info(intrinsics, int(episode.stamps_ns[0]), camera_frame))
    for step, stamp in enumerate(map(int, episode.stamps_ns)):
        position, turn = episode.end_effector_positions[step], episode.end_effector_quaternions[step]
        joints = episode.joint_positions[step]
        probe.publish("joint_states", to_joint_state(episode.joint_names, joints, stamp, base_frame))
        probe.publish("end_effector_pose", to_pose(position, turn, stamp, base_frame))
        probe.publish("color_image", to_image(episode.images[step], "rgb8", stamp, camera_frame))
        probe.spin(0.02)
        probe.publish("depth_image", to_image(episode.depths[step], "16UC1", stamp, camera_frame))
        probe.spin(0.02)


def test_nothing_seen_is_no_verdict(judge: Any) -> None:
    answer = judge.call("judge_episode", seconds=60)
    assert not answer.success
    assert "no image of an episode" in answer.message


@pytest.mark.parametrize("drops", [False, True])
def test_a_rollout_is_judged_as_the_simulator_does(judge: Any, environment: Any, drops: bool) -> None:
    actor = {"actor": EarlyRelease()} if drops else {}
    rollout = roll_out(environment, f"{TASK}/eval/0007", 0.0, 7, **actor)
    assert rollout.episode.manifest.success is not drops, "the script does what the test wants"
    begin(judge, TASK)
    play(judge, rollout.episode)
    answer = judge.call("judge_episode", seconds=60)
    assert answer.success is not drops, answer.message


def test_a_new_episode_forgets_the_last_one_and_an_unknown_task_is_told(judge: Any, environment: Any) -> None:
    rollout = roll_out(environment, f"{TASK}/eval/0008", 0.0, 8, max_steps=2)
    begin(judge, "juggle")
    assert "no image of an episode" in judge.call("judge_episode").message
    play(judge, rollout.episode)
    answer = judge.call("judge_episode", seconds=60)
    assert not answer.success
    assert "juggle" in answer.message
