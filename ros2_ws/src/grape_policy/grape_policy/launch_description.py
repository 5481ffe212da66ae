"""Turns the description of the stack into launch_ros actions, for the launch files; needs ROS 2's launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from grape_policy import stack
from grape_policy.respawn import RESPAWN_DELAY_SECONDS, RespawnBudget

STOP_SECONDS = "20"  # to close files after Ctrl+C on a busy machine, before SIGTERM


def describe(table: tuple[stack.Argument, ...], nodes: Callable[[dict[str, stack.Value]], list[Any]]) -> Any:
    """Return a launch description with the arguments of ``table`` and the actions ``nodes`` returns."""

    def actions(context: LaunchContext) -> list[Any]:
        given = {argument.name: context.launch_configurations[argument.name] for argument in table}
        return nodes(stack.resolve_arguments(given, table))

    return LaunchDescription(
        [
            *(SetEnvironmentVariable(name, value) for name, value in stack.environment().items()),
            *(_declaration(argument) for argument in table),
            OpaqueFunction(function=actions),
        ]
    )


def _declaration(argument: stack.Argument) -> Any:
    return DeclareLaunchArgument(
        argument.name,
        default_value=str(argument.default),
        description=argument.description,
        choices=list(argument.choices) or None,
    )


def node_action(node: stack.NodeDescription, arguments: dict[str, stack.Value]) -> Any:
    """Return the launch_ros action of ``node``: respawned as described; its end may end the launch."""
    parameters = stack.filled_parameters(node, arguments)
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace or None,
        parameters=[
            {name: ParameterValue(value, value_type=type(value)) for name, value in parameters.items()}
        ],
        output="screen",
        respawn=node.respawns > 0,
        respawn_delay=RESPAWN_DELAY_SECONDS,
        sigterm_timeout=STOP_SECONDS,
        on_exit=_ExitHandler(node),
    )


class _ExitHandler:
    """Ends the launch when a required node has ended more often than it may be respawned."""

    def __init__(self, node: stack.NodeDescription) -> None:
        self.node, self.budget = node, RespawnBudget(node.respawns)

    def __call__(self, event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown or not self.node.required or self.budget.grant(time.monotonic()):
            return []
        return [Shutdown(reason=f"{self.node.name} ended with exit code {event.returncode}")]
