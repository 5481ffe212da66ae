"""The description of the stack fits the nodes it describes."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from grape_policy import stack

SOURCES = Path(__file__).parents[2] / "ros2_ws" / "src"
OURS = [n for n in (*stack.NODES, stack.LIFECYCLE_MANAGER, stack.COLLECTOR) if n.module]


@pytest.mark.parametrize("node", OURS, ids=lambda node: node.name)
def test_every_node_has_its_module_entry_point_and_parameters(node: stack.NodeDescription) -> None:
    pytest.importorskip("rclpy")
    module = import_module(node.module)
    assert set(node.parameters) <= {parameter.name for parameter in module.PARAMETERS}
    setup = (SOURCES / node.package / "setup.py").read_text()
    assert f'"{node.executable} = {node.module}:main"' in setup


def test_defaults_resolve_and_paths_become_absolute() -> None:
    values = stack.resolve_arguments({})
    assert values["driver"] == "sim"
    assert Path(str(values["checkpoint"])).is_absolute()
    names = [node.name for node in stack.selected_nodes(values)]
    assert names == ["sim", "arm", "policy", "recorder", "episode_manager", "lifecycle_manager"]


def test_another_driver_needs_no_simulator() -> None:
    values = stack.resolve_arguments({"driver": "mock", "camera": "realsense"})
    names = [node.name for node in stack.selected_nodes(values)]
    assert "sim" not in names
    assert "camera" in names


@pytest.mark.parametrize(
    ("camera", "module", "watch"),
    [
        ("realsense", "grape_policy.nodes.camera_node", "policy,camera,images"),
        ("playback", "grape_policy.nodes.camera_node", "policy,camera,images"),
        ("realsense2_camera", "", "policy,images"),  # sends no heartbeat
    ],
)
def test_each_camera_has_one_node_and_what_the_arm_can_watch(camera: str, module: str, watch: str) -> None:
    given = {"driver": "mock", "camera": camera, "playback": "some.db3" if camera == "playback" else ""}
    values = stack.resolve_arguments(given)
    chosen = [node for node in stack.selected_nodes(values) if node.name == "camera"]
    assert [node.module for node in chosen] == [module]
    assert values["watch"] == watch
    assert stack.resolve_arguments({**given, "watch": "images"})["watch"] == "images"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"diver": "sim"}, "unknown argument diver; known are driver"),
        ({"driver": "warp"}, "driver:=warp is not one of sim, mock"),
        ({"robot": "panda"}, "driver:=sim robot:=panda: driver sim simulates the wx250s"),
        ({"driver": "trossen"}, "use robot wxai or another driver"),
        ({"driver": "mock", "robot": "r2d2"}, "no robot description 'r2d2'; known: wx250s, panda"),
        ({"driver": "servo", "robot": "/none.yaml"}, "cannot read the robot description /none.yaml"),
        ({"driver": "sim", "camera": "realsense"}, "camera:=none"),
        ({"driver": "sim", "calibration": "here.yaml"}, "leave calibration out"),
        ({"driver": "mock", "camera": "playback"}, "belong together"),
        ({"driver": "mock", "camera": "realsense", "playback": "some.db3"}, "belong together"),
        ({"driver": "mock", "camera": "realsense2_camera", "serials": "1,wrist=2"}, "one serial number"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(stack.StackError, match=re.escape(message)):
        stack.resolve_arguments(given)


def test_numbers_are_checked() -> None:
    values = stack.resolve_arguments({"states": "7", "temperature": "1"}, stack.COLLECT_ARGUMENTS)
    assert values["states"] == 7
    assert values["temperature"] == 1.0
    with pytest.raises(stack.StackError, match="states:=many is not a whole number"):
        stack.resolve_arguments({"states": "many"}, stack.COLLECT_ARGUMENTS)


@pytest.mark.parametrize("text", ["1", "a b", 'quo"te', "true", "/tmp/x: y", "", "ünï"])
def test_text_parameters_stay_text_on_the_command_line(text: str) -> None:
    node = stack.NodeDescription("n", "p", "e", parameters={"value": "{value}", "number": 2.5, "flag": True})
    line = stack.ros_arguments(node, {"value": text})
    values = dict(item.split(":=", 1) for item in line if ":=" in item)
    assert yaml.safe_load(values["value"]) == text
    assert yaml.safe_load(values["number"]) == 2.5
    assert yaml.safe_load(values["flag"]) is True


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    variables = stack.environment()
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert Path(variables["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


@pytest.mark.parametrize("name", ["run.launch.py", "collect.launch.py"])
def test_the_package_installs_the_launch_files(name: str) -> None:
    installed = SOURCES / "grape_policy" / "launch" / name
    assert installed.resolve() == SOURCES.parents[1] / "launch" / name
    assert installed.is_file()
