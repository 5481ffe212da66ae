"""The policy node as a real process over DDS, with a tiny random checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vla_factory import STATISTICS, random_images, tiny_checkpoint

pytestmark = pytest.mark.ros
pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
START_SECONDS = 90  # importing torch on a busy machine
NODE = "grape_policy.nodes.policy_node"
TASK = {"active": True, "episode_id": "e1", "instruction": "put the carrot on the plate", "seed": 3}


class Camera:
    """Publishes random images at 20 Hz and remembers their stamps."""

    def __init__(self, probe: Any) -> None:
        self.probe, self.images, self.stamps = probe, random_images(8), []

    def run(self, seconds: float, age: float = 0.0) -> None:
        from grape_policy.nodes.messages import to_image

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stamp = self.probe.node.get_clock().now().nanoseconds - int(age * 1e9)
            self.stamps.append(stamp)
            pixels = self.images[len(self.stamps) % len(self.images)]
            self.probe.publish("color_image", to_image(pixels, "rgb8", stamp, "camera"))
            self.probe.spin(0.05)

    def run_until(self, condition: Any, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"no {what} within {seconds} s"
            self.run(0.1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: Any) -> tuple[Path, str, Path, str]:
    root = tmp_path_factory.mktemp("checkpoints")
    first, second = root / "first", root / "second"
    return first, tiny_checkpoint(first, seed=0), second, tiny_checkpoint(second, seed=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def running(module_start: Any, module_probe: Any, checkpoints: Any, registry: Path) -> Any:
    """One policy node for all tests: importing torch takes longer than all of them."""
    module_start(NODE, checkpoint=checkpoints[0], registry=registry)
    module_probe.listen("action")
    assert module_probe.call("set_policy_task", seconds=START_SECONDS, active=False).success
    return module_probe


@pytest.fixture
def node(running: Any) -> Any:
    assert running.call("set_policy_task", active=False).success
    running.spin(0.2)
    running.received["action"].clear()
    return running


def stamps_of(actions: list[Any]) -> list[int]:
    from grape_policy.nodes.messages import to_nanoseconds

    return [to_nanoseconds(action.observation_stamp) for action in actions]


def test_acts_on_images_at_five_hertz_until_it_is_stopped(node: Any, checkpoints: Any) -> None:
    actions, camera = node.received["action"], Camera(node)
    camera.run(0.5)
    assert actions == []  # no task, no action
    answer = node.call("set_policy_task", **TASK)
    assert answer.success
    assert answer.policy_version == checkpoints[1]
    begin = len(camera.stamps)
    camera.run(2.4)
    assert 8 <= len(actions) <= 14
    assert set(stamps_of(actions)) <= set(camera.stamps[begin:])  # the very images, none from before the task
    assert len(set(stamps_of(actions))) == len(actions)
    assert [action.step for action in actions] == list(range(len(actions)))
    for action in actions:
        assert (action.episode_id, action.policy_version) == ("e1", checkpoints[1])
        assert len(action.token_ids) == len(action.log_probabilities) == 7
        assert (np.asarray(action.action) >= np.append(STATISTICS.q01[:6], 0.0)).all()
        assert 0.0 < action.inference_seconds < 1.0
    assert node.call("set_policy_task", active=False).success
    count = len(actions)
    camera.run(0.6)
    assert len(actions) == count


def test_max_steps_and_same_seed_same_samples(node: Any) -> None:
    from grape_policy.nodes.messages import to_image

    def sample() -> list[list[int]]:
        node.received["action"].clear()
        assert node.call("set_policy_task", **TASK, temperature=1.0, max_steps=3).success
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            stamp = node.node.get_clock().now().nanoseconds
            node.publish("color_image", to_image(random_images(1)[0], "rgb8", stamp, "camera"))
            node.spin(0.05)
        return [list(action.token_ids) for action in node.received["action"]]

    first = sample()
    assert len(first) == 3
    assert first[0] != first[1]
    assert sample() == first


def test_no_action_from_stale_images_and_bad_tasks_are_refused(node: Any) -> None:
    camera = Camera(node)
    assert node.call("set_policy_task", **TASK).success
    camera.run(0.8, age=0.7)
    assert node.received["action"] == []
    refused = node.call("set_policy_task", active=True, instruction="  ")
    assert not refused.success
    assert "instruction" in refused.message
    assert not node.call("set_policy_task", **TASK, temperature=float("nan")).success


def test_reload_switches_between_two_actions_and_refuses_broken_checkpoints(
    node: Any, checkpoints: Any, registry: Path, tmp_path: Path
) -> None:
    _, old, second, new = checkpoints
    actions, camera = node.received["action"], Camera(node)
    assert node.call("set_policy_task", **TASK).success
    camera.run_until(lambda: len(actions) >= 2, 5, "actions")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "openvla"}))
    refused = node.call("load_policy", checkpoint=str(broken))
    assert not refused.success
    assert refused.policy_version == old
    assert "towers" in refused.message
    assert "current.json" in node.call("load_policy", checkpoint="").message  # an empty registry
    count = len(actions)
    camera.run_until(lambda: len(actions) >= count + 2, 5, "actions after the refusal")
    assert {action.policy_version for action in actions} == {old}
    versions = registry / "versions"
    versions.mkdir(parents=True)
    (versions / "v2").symlink_to(second)
    (registry / "current.json").write_text(json.dumps({"version": "v2"}))
    loaded = node.call("load_policy", checkpoint="")
    assert loaded.success, loaded.message
    assert loaded.policy_version == new
    camera.run_until(lambda: actions[-1].policy_version == new, 5, "action of the new version")
    seen = [action.policy_version for action in actions]
    assert seen == sorted(seen, key=[old, new].index)
    assert [action.step for action in actions] == list(range(len(actions)))


def test_a_missing_checkpoint_stops_the_start_with_one_clear_line(
    ros_environment: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    from grape_policy.nodes import base, policy_node

    monkeypatch.setattr(base.signal, "signal", lambda *_: None)  # the test runner keeps its Ctrl+C
    folder = tmp_path / "absent"
    assert policy_node.main(["--ros-args", "-p", f"checkpoint:={folder}"]) == 1
    assert f"cannot start: checkpoint {folder} was refused" in capsys.readouterr().err
