"""The one description of the stack: which nodes run, with which arguments, and what happens when one ends.

It is plain data.  ``launch/run.launch.py`` and ``launch/collect.launch.py`` turn it into launch_ros actions;
``supervisor`` turns the same data into processes for machines without the launch packages.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from grape_policy.arm.description import SHIPPED, DescriptionError, load_description
from grape_policy.arm.drivers import DRIVERS, combination_error
from grape_policy.vla.runtime import PRECISIONS


class StackError(ValueError):
    """The stack cannot run as asked; the message says which argument or node, why, and what to do."""


Value = str | int | float | bool


@dataclass(frozen=True)
class Argument:
    """One argument of the stack; ``default`` sets its type, ``choices`` is empty when any value will do."""

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    is_path: bool = False

    def parse(self, text: Value) -> Value:
        """Return ``text`` in the argument's type; paths become absolute.

        Raises:
            StackError: not of the type, or not among the choices.
        """
        try:
            value = type(self.default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(self.default, int) else "a number"
            raise StackError(f"{self.name}:={text} is not {kind}") from None
        if self.choices and value not in self.choices:
            raise StackError(f"{self.name}:={text} is not one of {', '.join(self.choices)}")
        return str(Path(str(value)).expanduser().absolute()) if self.is_path and value else value


@dataclass(frozen=True)
class NodeDescription:
    """One node: where it is, its parameters, when it runs and what happens when it ends.

    Attributes:
        name: node name, e.g. ``arm``.
        package: ROS package; ``executable`` is its installed program.
        module: Python module to run in place of the executable; empty for nodes that are not Python.
        parameters: ROS parameter name -> value; ``{driver}`` stands for the value of the argument ``driver``.
        namespace: namespace of the node, without the leading slash.
        only_if: (argument, value, ...): run only when the argument has one of the values; empty: always.
        required: the stack stops when this node ends for good.
        respawns: how often within ten minutes it may be started again after it ended by itself.
        managed: a lifecycle node that the lifecycle manager brings up and takes down, in this order.
        announces_ready: prints the line ``ready`` when it can do its work (all nodes of ours do).
        stops_first: is stopped before the others, which it still needs.
    """

    name: str
    package: str
    executable: str
    module: str = ""
    namespace: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    only_if: tuple[str, ...] = ()
    required: bool = True
    respawns: int = 0
    managed: bool = False
    announces_ready: bool = True
    stops_first: bool = False


DEFAULT_CHECKPOINT = "checkpoints/grape-small"

ARGUMENTS = (
    Argument(
        "driver",
        "sim",
        "arm driver: the simulator, a kinematic arm without physics, or a real arm by MoveIt Servo, "
        "ros2_control's joint trajectory controller, a Cartesian impedance controller or Trossen's library",
        DRIVERS,
    ),
    Argument("robot", "wx250s", f"the arm: {', '.join(SHIPPED)}, or a YAML description of your own"),
    Argument("address", "192.168.1.2", "IP address of the arm's controller, for driver:=trossen"),
    Argument(
        "camera",
        "none",
        "our camera node, the stock driver, or a recording; none: simulated or already running",
        ("none", "realsense", "realsense2_camera", "playback"),
    ),
    Argument("serials", "", "serial number of the camera; several for our node: 0123,wrist=4567"),
    Argument("camera_profile", "640x480x30", "width, height and rate of the camera's streams"),
    Argument("preset", "", "visual preset for our camera node, such as high_accuracy"),
    Argument("playback", "", "recording or episode folder for camera:=playback", is_path=True),
    Argument("playback_end", "loop", "what happens at its end", ("loop", "stop")),
    Argument("playback_pace", "recorded", "how fast it is played", ("recorded", "fast")),
    Argument(
        "calibration", "", "where the camera is: file of grape calibrate; empty: the contract's", is_path=True
    ),
    Argument(
        "watch",
        "auto",
        "what the arm needs while it follows actions; auto: policy,camera,images, but policy,images with the "
        "stock camera driver, which sends no heartbeat",
    ),
    Argument("image_scale", 1, "size of the simulated camera's images, times 320x240"),
    Argument(
        "judge",
        "simulator",
        "who says whether an episode has succeeded: the simulator's truth, keypoints in the images, nobody",
        ("simulator", "keypoints", "none"),
    ),
    Argument("checkpoint", DEFAULT_CHECKPOINT, "folder of the policy to load at the start", is_path=True),
    Argument("statistics_key", "", "action statistics of a checkpoint that holds several"),
    Argument("device", "cpu", "where the policy computes: cpu, cuda or cuda:<number>"),
    Argument("precision", "float32", "precision of the policy's weights", PRECISIONS),
    Argument("compile", "none", "what torch.compile speeds up", ("none", "vision")),
    Argument("registry", "runs/registry", "folder of the registry of policy versions", is_path=True),
    Argument("episodes_folder", "runs/episodes", "folder that receives one folder per episode", is_path=True),
)

COLLECT_ARGUMENTS = (
    Argument("task_list", "", "task list (YAML) to collect; the others stand for a simple one", is_path=True),
    Argument("tasks", "carrot_on_plate", "tasks to collect, separated by commas"),
    Argument("split", "collect", "split of the initial states", ("train", "collect", "eval")),
    Argument("states", 4, "initial states per task"),
    Argument("rollouts", 3, "rollouts per initial state"),
    Argument("temperature", 0.7, "sampling temperature of the policy"),
    Argument("seed", 0, "seed of the sampling"),
)

RESPAWNS = 3  # within ten minutes; a node that crashes more often needs a person

# In the order of activation: what a node needs comes before it.
NODES = (
    # Camera, arm, objects and judge in one: it owns the simulated time and state.
    NodeDescription(
        "sim",
        "grape_sim",
        "sim_node",
        "grape_sim.node",
        parameters={"image_scale": "{image_scale}", "judge": "{judge}"},
        only_if=("driver", "sim"),
        respawns=RESPAWNS,
        managed=True,
    ),
    # Named so that its topics get the names the contract has for the images.
    NodeDescription(
        "camera",
        "realsense2_camera",
        "realsense2_camera_node",
        namespace="camera",
        parameters={
            "align_depth.enable": True,
            "serial_no": "{serials}",
            "rgb_camera.color_profile": "{camera_profile}",
            "depth_module.depth_profile": "{camera_profile}",
        },
        only_if=("camera", "realsense2_camera"),
        respawns=3,
        announces_ready=False,
    ),
    NodeDescription(
        "camera",
        "grape_policy",
        "camera_node",
        "grape_policy.nodes.camera_node",
        parameters={
            "color_profile": "{camera_profile}",
            "depth_profile": "{camera_profile}",
            **{
                name: "{" + name + "}"
                for name in ("serials", "preset", "playback", "playback_end", "playback_pace")
            },
        },
        only_if=("camera", "realsense", "playback"),
        respawns=RESPAWNS,
        managed=True,
    ),
    NodeDescription(
        "arm",
        "grape_policy",
        "arm_node",
        "grape_policy.nodes.arm_node",
        parameters={name: "{" + name + "}" for name in ("driver", "robot", "address", "watch")},
        respawns=RESPAWNS,
        managed=True,
    ),
    NodeDescription(
        "policy",
        "grape_policy",
        "policy_node",
        "grape_policy.nodes.policy_node",
        parameters={
            name: "{" + name + "}"
            for name in ("checkpoint", "registry", "statistics_key", "device", "precision", "compile")
        },
        respawns=RESPAWNS,
        managed=True,
    ),
    NodeDescription(
        "recorder",
        "grape_policy",
        "recorder_node",
        "grape_policy.nodes.recorder_node",
        parameters={"episodes_folder": "{episodes_folder}", "calibration": "{calibration}"},
        respawns=RESPAWNS,
        managed=True,
    ),
    NodeDescription(
        "keypoint_judge",
        "grape_policy",
        "keypoint_judge_node",
        "grape_policy.nodes.keypoint_judge_node",
        only_if=("judge", "keypoints"),
        respawns=RESPAWNS,
        managed=True,
    ),
    NodeDescription(
        "episode_manager",
        "grape_policy",
        "episode_manager_node",
        "grape_policy.nodes.episode_manager_node",
        parameters={"episodes_folder": "{episodes_folder}", "judge": "{judge}"},
        respawns=RESPAWNS,
        managed=True,
    ),
)

# Its parameter ``nodes`` is filled in from the nodes that run.
LIFECYCLE_MANAGER = NodeDescription(
    "lifecycle_manager",
    "grape_policy",
    "lifecycle_manager_node",
    "grape_policy.nodes.lifecycle_manager_node",
    respawns=RESPAWNS,
    stops_first=True,  # it takes the others down, in reverse order
)

# Runs one Collect action and ends; with it ends the stack of collect.launch.py.
COLLECTOR = NodeDescription(
    "collect",
    "grape_policy",
    "collect_node",
    "grape_policy.nodes.collect_node",
    parameters={
        name: "{" + name + "}" for name in (*(a.name for a in COLLECT_ARGUMENTS), "episodes_folder", "robot")
    },
    announces_ready=False,
)


def resolve_arguments(
    given: Mapping[str, Value], table: tuple[Argument, ...] = ARGUMENTS
) -> dict[str, Value]:
    """Return the value of every argument of ``table``: the given one or the default.

    Raises:
        StackError: an unknown name, a wrong type, a value not among the choices, or a wrong combination.
    """
    unknown = sorted(set(given) - {argument.name for argument in table})
    if unknown:
        known = ", ".join(argument.name for argument in table)
        raise StackError(f"unknown argument {', '.join(unknown)}; known are {known}")
    values = {argument.name: argument.parse(given.get(argument.name, argument.default)) for argument in table}
    if "robot" in values:
        _check_camera(values)
        _check_robot(str(values["driver"]), str(values["robot"]))
    return values


def _check_robot(driver: str, robot: str) -> None:
    try:
        refusal = combination_error(driver, load_description(robot).model)
    except DescriptionError as error:
        raise StackError(f"robot:={robot}: {error}") from error
    if refusal:
        raise StackError(f"driver:={driver} robot:={robot}: {refusal}")


def _check_camera(values: dict[str, Value]) -> None:
    """Refuse what does not go together with the camera, and decide what the arm watches."""
    camera, simulated = values["camera"], values["driver"] == "sim"
    if simulated and camera != "none":
        raise StackError("driver:=sim renders its own camera; use camera:=none, or another driver")
    if simulated and values["calibration"]:
        raise StackError(
            "driver:=sim knows where its camera is; leave calibration out, or use another driver"
        )
    if (camera == "playback") != bool(values["playback"]):
        raise StackError("camera:=playback and playback:=<recording or episode folder> belong together")
    if camera == "realsense2_camera" and not re.fullmatch(r"\d*", str(values["serials"])):
        raise StackError(f"serials:={values['serials']}: the stock driver takes one serial number")
    if values["watch"] == "auto":
        values["watch"] = "policy,images" if camera == "realsense2_camera" else "policy,camera,images"


def selected_nodes(arguments: Mapping[str, Value]) -> list[NodeDescription]:
    """Return the nodes that run with these (resolved) arguments, the lifecycle manager last."""
    nodes = [n for n in NODES if not n.only_if or arguments[n.only_if[0]] in n.only_if[1:]]
    managed = [node.name for node in nodes if node.managed]
    return [*nodes, replace(LIFECYCLE_MANAGER, parameters={"nodes": ",".join(managed)})] if managed else nodes


def filled_parameters(node: NodeDescription, arguments: Mapping[str, Value]) -> dict[str, Value]:
    """Return the node's parameters with ``{argument}`` replaced by that argument's value."""
    filled = {
        name: arguments[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value
        for name, value in node.parameters.items()
    }
    return filled | {"autostart": False} if node.managed else filled


def ros_arguments(node: NodeDescription, arguments: Mapping[str, Value]) -> list[str]:
    """Return the ``--ros-args`` command line of ``node``; text is quoted so that "1" stays text."""
    line = ["--ros-args", "-r", f"__node:={node.name}"]
    if node.namespace:
        line += ["-r", f"__ns:=/{node.namespace}"]
    for name, value in filled_parameters(node, arguments).items():
        line += ["-p", f"{name}:={json.dumps(value)}"]
    return line


def environment() -> dict[str, str]:
    """Return the variables that every process of the stack needs, clients included; those already set win.

    Local discovery only, a Fast DDS profile whose shared memory holds whole images (the default's 512 kB
    loses them), rendering without a display, and one thread per process, because all share the cores.
    """
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(files("grape_policy").joinpath("fastdds.xml")),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(Path("runs/logs/ros").absolute()),  # not in the home folder
        "MUJOCO_GL": "egl",
        "LP_NUM_THREADS": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
