"""Unattended collection through the ROS graph: the running one, or a simulated one started for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape_policy.collection.task_list import TaskList, TaskListError, load_task_list, simulated_task_list

from grape_training.errors import BadInputError, UserError

if TYPE_CHECKING:
    from grape_policy.collection.session import Summary


def make_task_list(path: Path | None, tasks: Sequence[str], **fields: Any) -> TaskList:
    """Return the list in ``path``, or the one that ``tasks`` and ``fields`` stand for.

    Raises:
        BadInputError: It is wrong.
    """
    try:
        return load_task_list(path) if path else simulated_task_list(tasks, **fields)
    except TaskListError as error:
        raise BadInputError(str(error), "See docs/how-to/unattended-collection.md") from error


def collect_through_graph(wanted: TaskList, output: Path, policy: Path | None) -> Summary:
    """Run the list on the graph of this ROS domain; with ``policy``, on a simulated one started here.

    Raises:
        UserError: ROS cannot be used, a node did not start, or the folder cannot be written.
    """
    from grape_episodes.types import EpisodeError
    from grape_policy import stack

    os.environ.update(stack.environment())
    try:
        with ExitStack() as resources:
            failure = _start(policy, output, resources) if policy else lambda: ""
            from grape_policy.nodes.collect_node import client_node, collect

            client = resources.enter_context(client_node("collect"))
            return collect(wanted, output, client, failure=failure)
    except ImportError as error:
        raise UserError(
            f"ROS 2 cannot be used ({error})", "Run make setup, or collect with --no-ros"
        ) from error
    except (OSError, ValueError, EpisodeError) as error:
        raise UserError(f"cannot collect: {error}") from error


def _start(policy: Path, output: Path, resources: ExitStack) -> Callable[[], str]:
    """Start the simulated graph; return what says why it stopped."""
    from grape_policy.domain import parse_domain
    from grape_policy.supervisor import running_stack

    arguments = {"checkpoint": str(policy), "episodes_folder": str(output)}
    domain = parse_domain(os.environ.get("ROS_DOMAIN_ID", ""))
    running = resources.enter_context(running_stack(arguments, domain, output / "logs"))
    return running.failure
