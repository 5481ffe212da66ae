"""The scoring node as a process: an action client sends a folder and gets feedback, result and files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from episode_factory import make_episode
from grape_episodes.writer import write_episode

pytestmark = pytest.mark.ros
NODE = "grape_preference.node"


@pytest.fixture(scope="module")
def action(module_start: Any, ros_environment: dict[str, str]) -> Iterator[Any]:
    """A client of the node's action, and a function that waits for a future."""
    import rclpy
    from grape_episodes import contract
    from grape_msgs.action import ScoreEpisodes
    from rclpy.action import ActionClient

    pairing = {"reject_greedy": "true", "among_successes": "true", "balance": "false", "top": 2}
    module_start(NODE, workers=1, objective="safety", **pairing)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("scoring_client", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    client = ActionClient(node, ScoreEpisodes, contract.action_name("score_episodes"))

    def wait(future: Any) -> Any:
        executor.spin_until_future_complete(future, timeout_sec=60)
        assert future.done()
        return future.result()

    assert client.wait_for_server(timeout_sec=60)
    yield client, wait
    client.destroy()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    for name in ("a", "b", "c"):
        write_episode(root, make_episode(3, episode_id=name))
    return root


def test_a_folder_is_scored_with_feedback(action: Any, root: Path, tmp_path: Path) -> None:
    from grape_msgs.action import ScoreEpisodes

    client, wait = action
    feedback: list[Any] = []
    goal = ScoreEpisodes.Goal(episodes_root=str(root), output=str(tmp_path), preset="paper")
    handle = wait(client.send_goal_async(goal, lambda message: feedback.append(message.feedback)))
    assert handle.accepted
    result = wait(handle.get_result_async()).result
    assert result.success, result.message
    assert (result.scored, result.refused, result.pairs) == (0, 3, 0)
    assert result.path == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "scores.json"]
    rows = json.loads((tmp_path / "scores.json").read_text())["episodes"]
    assert {row["objective"] for row in rows} == {"safety"}
    made = json.loads(pq.read_schema(tmp_path / "pairs.parquet").metadata[b"grape"])
    how = {name: made[name] for name in ("reject_greedy", "among_successes", "balance", "top")}
    assert how == {"reject_greedy": True, "among_successes": True, "balance": False, "top": 2}
    assert [(f.done, f.total, f.episode_id) for f in feedback] == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    assert {f.verdict for f in feedback} == {"missing_keypoints"}
    assert all(math.isnan(f.score) for f in feedback)


def test_a_bad_goal_gives_one_clear_message(action: Any, tmp_path: Path) -> None:
    from grape_msgs.action import ScoreEpisodes

    client, wait = action
    for goal, message in (
        (ScoreEpisodes.Goal(episodes_root=str(tmp_path / "nowhere")), "no finished episodes"),
        (ScoreEpisodes.Goal(episodes_root=str(tmp_path), preset="mine"), "unknown preset"),
    ):
        handle = wait(client.send_goal_async(goal))
        result = wait(handle.get_result_async()).result
        assert not result.success
        assert message in result.message


def test_a_wrong_parameter_is_one_line(start: Any) -> None:
    assert start(NODE, judge="me").wait(timeout=60) == 1


def test_the_node_ends_cleanly(action: Any, module_start: Any) -> None:
    """Last of this file: it stops the node that served the tests above."""
    assert module_start.stop(NODE) == 0
