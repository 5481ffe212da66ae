"""Start the stack: ``ros2 launch grape_policy run.launch.py driver:=sim checkpoint:=<folder>``."""

from typing import Any

from grape_policy import stack
from grape_policy.launch_description import describe, node_action


def generate_launch_description() -> Any:
    """Return the stack's nodes as described in ``grape_policy.stack``."""
    return describe(
        stack.ARGUMENTS,
        lambda arguments: [node_action(n, arguments) for n in stack.selected_nodes(arguments)],
    )
