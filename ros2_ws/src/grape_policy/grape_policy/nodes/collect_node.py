"""Unattended collection from the running graph: runs a task list, shows how it goes, and ends with it.

Used by ``collect.launch.py`` and ``grape collect``; a robot needs no more than the ROS packages to collect.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from grape_episodes.types import EpisodeError
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from grape_policy.collection.session import Session, Summary
from grape_policy.collection.task_list import TaskList, TaskListError, load_task_list, simulated_task_list
from grape_policy.nodes.collection_robot import CollectionRobot
from grape_policy.nodes.parameters import Parameter, ParameterError, declare

PARAMETERS = (
    Parameter("task_list", "", "Task list (YAML); the parameters from `tasks` to `seed` stand for one."),
    Parameter("tasks", "carrot_on_plate", "Tasks to collect, separated by commas."),
    Parameter("split", "collect", "Split of the initial states: train, collect or eval."),
    Parameter("states", 4, "Initial states per task.", 1, 10_000),
    Parameter("rollouts", 3, "Rollouts per initial state.", 1, 1_000),
    Parameter("temperature", 0.7, "Sampling temperature of the policy; 0: greedy.", 0.0, 10.0),
    Parameter("seed", 0, "Seed of the sampling.", 0, 2**31 - 1),
    Parameter("robot", "wx250s", "Robot description, for scripted motions."),
    Parameter("episodes_folder", "runs/episodes", "The recorder's folder."),
)


def wanted_list(values: Any) -> TaskList:
    """Return the task list that the parameters name or stand for.

    Raises:
        TaskListError: It is wrong.
    """
    if values.task_list:
        return load_task_list(Path(values.task_list).expanduser())
    tasks = [name.strip() for name in values.tasks.split(",") if name.strip()]
    names = ("split", "states", "rollouts", "temperature", "seed")
    return simulated_task_list(tasks, **{name: getattr(values, name) for name in names})


def collect(
    wanted: TaskList,
    root: Path,
    client: tuple[Node, SingleThreadedExecutor],
    robot: str = "wx250s",
    failure: Callable[[], str] = lambda: "",
) -> Summary:
    """Run the list on the graph that ``client`` has joined; ``failure`` says why that is gone, if it is.

    Raises:
        OSError, ValueError, EpisodeError: The journal or the catalogue cannot be used.
        KeyboardInterrupt: On Ctrl+C, after the running episode was closed.
    """
    hardware = CollectionRobot(*client, robot, failure)
    say = client[0].get_logger().info
    session = Session(hardware, wanted, root.expanduser().absolute(), sleep=hardware.sleep, say=say)
    say(f"status page: {session.status.path}")
    return session.run()


def describe(summary: Summary) -> str:
    """Return the summary in words."""
    counts = f"{summary.done} of {summary.planned} rollouts done, {summary.successes} successful"
    given_up = f", {summary.given_up} given up" if summary.given_up else ""
    return f"{counts}{given_up}" + (f"; ended because {summary.reason}" if summary.reason else "")


@contextmanager
def client_node(name: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """Join the graph for the ``with`` block; SIGINT and SIGTERM are KeyboardInterrupts."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    saved = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = rclpy.create_node(name)
    executor.add_node(node)
    try:
        yield node, executor
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        for number, handler in saved.items():
            signal.signal(number, handler)


def main() -> int:
    """Run the collection as a process; 0: every rollout is done."""
    try:
        with client_node("collect") as client:
            values = declare(client[0], PARAMETERS)
            summary = collect(wanted_list(values), Path(values.episodes_folder), client, values.robot)
            client[0].get_logger().info(describe(summary))
            return 0 if summary.done == summary.planned else 1
    except KeyboardInterrupt:
        return 0
    except (TaskListError, ParameterError, ValueError, OSError, EpisodeError) as error:
        print(f"cannot collect: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
