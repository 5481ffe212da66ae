"""The real graph as processes: one episode from camera to disk, read back by an independent reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from grape_episodes import contract
from grape_policy.supervisor import RunningStack, running_stack
from survivors import survivors
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
pytestmark = [pytest.mark.ros, pytest.mark.slow]
STEPS = 12
STATE = "carrot_on_plate/collect/0001"
EPISODE_SECONDS = 90.0  # on a busy machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("graph") / "checkpoint"
    return folder, tiny_checkpoint(folder)


@pytest.fixture(scope="module")
def running(
    checkpoint: tuple[Path, str], ros_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningStack, Path]]:
    root = tmp_path_factory.mktemp("run")
    episodes = root / "episodes"
    domain_id = int(ros_environment["ROS_DOMAIN_ID"])
    arguments = {"checkpoint": str(checkpoint[0]), "episodes_folder": str(episodes)}
    with running_stack(arguments, domain_id, root / "logs") as stack:
        yield stack, episodes


@pytest.fixture(scope="module")
def episode(running: tuple[RunningStack, Path], module_probe: Any) -> tuple[Any, list[Any]]:
    """Run one episode; return its result and the actions seen meanwhile.

    On an overloaded machine the arm rightly stops when the next action is late; then it is tried again.
    """
    from grape_msgs.action import RunEpisode

    module_probe.listen("action")
    goal = RunEpisode.Goal(
        task="carrot_on_plate", initial_state_id=STATE, max_steps=STEPS, temperature=1.0, seed=5
    )
    for _ in range(3):
        module_probe.received["action"].clear()
        result = run_goal(module_probe, goal)
        if result.outcome != "stopped":
            break
    return result, module_probe.received["action"]


def run_goal(probe: Any, goal: Any) -> Any:
    from grape_policy.nodes import base

    client = base.action_client(probe.node, "run_episode")
    probe.until(client.server_is_ready, 30, "episode manager")
    sent = client.send_goal_async(goal)
    probe.until(sent.done, 30, "answer to the goal")
    assert sent.result().accepted
    result = sent.result().get_result_async()
    probe.until(result.done, EPISODE_SECONDS, "end of the episode")
    return result.result().result


def test_the_episode_runs_to_its_end(episode: tuple[Any, list[Any]], checkpoint: tuple[Path, str]) -> None:
    result, actions = episode
    assert result.outcome in ("success", "failure"), result.reason
    assert result.steps == len(actions) <= STEPS
    assert [action.step for action in actions] == list(range(len(actions)))
    assert {action.policy_version for action in actions} == {checkpoint[1]}


def test_an_independent_reader_finds_what_was_sent(episode: tuple[Any, list[Any]]) -> None:
    from rosbags.highlevel import AnyReader

    result, actions = episode
    names = {topic.name: key for key, topic in contract.topics().items()}
    messages: dict[str, list[Any]] = {key: [] for key in names.values()}
    with AnyReader([Path(result.path)]) as reader:
        for connection, _, raw in reader.messages():
            messages[names[connection.topic]].append(reader.deserialize(raw, connection.msgtype))
    assert len(messages["action"]) == len(actions)
    for recorded, sent in zip(messages["action"], actions, strict=True):
        np.testing.assert_array_equal(recorded.action, sent.action)
        assert list(recorded.token_ids) == list(sent.token_ids)
        np.testing.assert_array_equal(recorded.log_probabilities, np.float32(sent.log_probabilities))
    stamps = {(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages["color_image"]}
    used = {(a.observation_stamp.sec, a.observation_stamp.nanosec) for a in actions}
    assert used <= stamps  # the very image of every action was recorded
    for key in ("depth_image", "camera_info", "joint_states", "end_effector_pose", "safety_state"):
        assert messages[key], key
    image = messages["color_image"][0]
    pixels = np.asarray(image.data).reshape(image.height, image.width, 3)
    assert pixels.std() > 10  # a scene, not a blank frame


def test_the_manifest_says_what_happened(
    episode: tuple[Any, list[Any]], checkpoint: tuple[Path, str]
) -> None:
    result, actions = episode
    manifest = json.loads((Path(result.path) / "episode.json").read_text())
    assert manifest["initial_state_id"] == STATE
    assert manifest["policy_version"] == checkpoint[1]
    assert manifest["steps"] == len(actions)
    assert manifest["seed"] == 5
    assert manifest["success"] == result.success


def test_the_arm_has_moved_and_is_disarmed_again(episode: tuple[Any, list[Any]]) -> None:
    from grape_episodes.reader import read_episode

    recorded = read_episode(Path(episode[0].path))
    travelled = np.ptp(recorded.end_effector_positions, axis=0)
    assert travelled.max() > 0.01


def test_a_task_that_does_not_exist_is_refused_in_words(
    running: tuple[RunningStack, Path], module_probe: Any
) -> None:
    from grape_msgs.action import RunEpisode

    result = run_goal(module_probe, RunEpisode.Goal(task="fly", initial_state_id="fly/collect/0000"))
    assert result.outcome == "aborted"
    assert "fly" in result.reason
    assert running[0].failure() == ""


def grape_up(checkpoint: Path, root: Path, domain_id: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "grape_training.cli", "up", "--checkpoint", str(checkpoint)]
    command += ["--episodes", str(root / "episodes"), "--domain", str(domain_id)]
    return subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE, start_new_session=True)


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ending_grape_up_in_mid_episode_leaves_no_process_and_no_part(
    checkpoint: tuple[Path, str], tmp_path: Path, number: signal.Signals
) -> None:
    """Needs its own domain: the stack of the other tests runs on the session's."""
    from grape_episodes.manifest import read_manifest
    from grape_policy.domain import reserved_domain
    from rosbags.highlevel import AnyReader

    with reserved_domain() as domain_id:
        process = grape_up(checkpoint[0], tmp_path, domain_id)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[stack] ready"):
                break
        nodes = psutil.Process(process.pid).children(recursive=True)
        assert len(nodes) == 6
        start_endless_episode(domain_id, tmp_path)
        process.send_signal(number)
        process.communicate(timeout=40)
        assert survivors(nodes) == []
    if number == signal.SIGINT:
        assert process.returncode == 0
        assert list((tmp_path / "episodes").rglob("*.part")) == []
        manifests = list((tmp_path / "episodes").glob("*/episode.json"))
        assert len(manifests) == 1
        assert read_manifest(manifests[0].parent).outcome == "aborted"
        with AnyReader([manifests[0].parent]) as reader:  # closed properly: it has its index
            assert reader.message_count > 0


def start_endless_episode(domain_id: int, root: Path) -> None:
    """Send the goal from a process of its own and return when messages are being written."""
    script = (
        "import rclpy, sys\nfrom grape_msgs.action import RunEpisode\nfrom grape_policy.nodes import base\n"
        "rclpy.init()\nnode = rclpy.create_node('client')\nclient = base.action_client(node, 'run_episode')\n"
        "assert client.wait_for_server(60)\n"
        f"goal = RunEpisode.Goal(task='carrot_on_plate', initial_state_id='{STATE}', max_steps=1000)\n"
        "rclpy.spin_until_future_complete(node, client.send_goal_async(goal), timeout_sec=60)\n"
        "node.destroy_node()\nrclpy.try_shutdown()\n"
    )
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain_id)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=150)
    written = lambda: sum(path.stat().st_size for path in (root / "episodes").rglob("*.mcap*"))  # noqa: E731
    wait_until(lambda: written() > 50_000, 90, "recording")
