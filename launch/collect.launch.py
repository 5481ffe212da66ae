"""Start the stack, collect, stop: ``ros2 launch grape_policy collect.launch.py tasks:=stack_cube``."""

from typing import Any

from grape_policy import stack
from grape_policy.launch_description import describe, node_action


def generate_launch_description() -> Any:
    """Return the stack's nodes and the collector, with whose end the launch ends."""
    return describe(
        stack.ARGUMENTS + stack.COLLECT_ARGUMENTS,
        lambda arguments: [
            node_action(node, arguments) for node in [*stack.selected_nodes(arguments), stack.COLLECTOR]
        ],
    )
