"""The simulated ROS graph of a loop: started, suspended while the processor is needed elsewhere, stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grape_training.collect import RolloutPlan
from grape_training.collect_ros import CollectOutcome, EpisodeOutcome, Graph, connect
from grape_training.errors import UserError

if TYPE_CHECKING:
    from grape_policy.supervisor import RunningStack


class LoopGraph:
    """A running graph, each request through a client of its own."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack

    def collect(self, wanted: RolloutPlan, progress: bool) -> CollectOutcome:
        """Collect rollouts; see :meth:`collect_ros.Graph.collect`."""
        with self._client() as graph:
            return graph.collect(wanted, progress)

    def load_policy(self, folder: Path) -> str:
        """Switch the policy node to ``folder``; return its version."""
        with self._client() as graph:
            return graph.load_policy(folder)

    def run_episode(self, initial_state_id: str, max_steps: int) -> EpisodeOutcome:
        """Run one greedy recorded episode."""
        with self._client() as graph:
            return graph.run_episode(initial_state_id, max_steps=max_steps)

    @contextmanager
    def _client(self) -> Iterator[Graph]:
        with connect() as graph:
            try:
                yield graph
            except UserError as error:
                if self._stack.failure():
                    raise UserError(f"the graph stopped: {self._stack.failure()}") from error
                raise

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop the nodes from using the processor (SIGSTOP) until the end of the block."""
        pids = list(self._stack.pids().values())
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


@contextmanager
def loop_graph(policy: Path, output: Path) -> Iterator[LoopGraph]:
    """Run the simulated graph with ``policy``, recording below ``<output>/episodes``, on a free ROS domain.

    ``ROS_DOMAIN_ID`` is used as it is where it is set.

    Raises:
        UserError: a node did not start, or no domain is free.
    """
    from grape_policy.domain import reserved_domain
    from grape_policy.stack import StackError
    from grape_policy.supervisor import running_stack

    given = os.environ.get("ROS_DOMAIN_ID")
    arguments = {"checkpoint": str(policy), "episodes_folder": str(output / "episodes")}
    try:
        with ExitStack() as resources:
            domain = int(given) if given else resources.enter_context(reserved_domain())
            stack = resources.enter_context(running_stack(arguments, domain, output / "logs"))
            yield LoopGraph(stack)
    except (StackError, OSError) as error:
        raise UserError(f"the ROS graph cannot run: {error}", f"Logs: {output / 'logs'}") from error
