"""Talk to the running ROS graph: collect rollouts, run one episode, load a policy.

The only module here that imports rclpy, and only inside functions: training machines have no ROS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grape_training.collect import RolloutPlan
from grape_training.errors import UserError

SERVER_SECONDS = 30.0
CANCEL_SECONDS = 10.0
ANSWER_SECONDS = 5.0
# Where the graph logs is known to who started it, not to its clients.
_LOGS = "runs/logs after grape up, OUTPUT/logs of a grape loop"
_NO_GRAPH = "Start it in another terminal: grape up"


@dataclass(frozen=True)
class CollectOutcome:
    """The episodes of a collection, those that were there before included."""

    episodes: int
    successes: int
    episode_ids: tuple[str, ...]


@dataclass(frozen=True)
class EpisodeOutcome:
    """One episode that the episode manager ran."""

    episode_id: str
    path: str
    success: bool
    outcome: str
    reason: str
    steps: int


class Graph:
    """A short-lived client of the graph on this process's ROS domain. Use it with :func:`connect`."""

    def __init__(self, node: Any, executor: Any) -> None:
        from grape_policy.nodes.peers import Peers

        self._node, self._executor = node, executor
        self._lost: list[str] = []
        self._peers = Peers(node, ("episode_manager",), self._lost.append)

    def collect(self, wanted: RolloutPlan, progress: bool = True) -> CollectOutcome:
        """Collect all rollouts of ``wanted`` that the manager's catalogue lacks, with a progress bar.

        Raises:
            UserError: no episode manager, it refused, or the collection failed.
        """
        from grape_msgs.action import Collect

        goal = Collect.Goal(
            tasks=[state.split("/")[0] for state in wanted.states],
            initial_state_ids=list(wanted.states),
            rollouts=wanted.rollouts,
            max_steps=wanted.max_steps,
            temperature=float(wanted.temperature),
            seed=wanted.seed,
        )
        with tqdm(total=len(wanted.cells), desc="rollouts", unit="ep", disable=not progress) as bar:
            successes = 0

            def show(message: Any) -> None:
                nonlocal successes
                successes += message.feedback.success
                bar.set_postfix(successes=successes)
                bar.update(message.feedback.done - bar.n)

            result = self._run_action("collect", goal, show)
        if result.message:
            raise UserError(f"the collection ended early: {result.message}", f"The nodes' logs: {_LOGS}")
        return CollectOutcome(result.episodes, result.successes, tuple(result.episode_ids))

    def run_episode(
        self, initial_state_id: str, *, temperature: float = 0.0, seed: int = 0, max_steps: int = 0
    ) -> EpisodeOutcome:
        """Run one recorded episode.

        Raises:
            UserError: no episode manager, or it refused.
        """
        from grape_msgs.action import RunEpisode

        goal = RunEpisode.Goal(
            task=initial_state_id.split("/")[0],
            initial_state_id=initial_state_id,
            temperature=float(temperature),
            seed=seed,
            max_steps=max_steps,
        )
        r = self._run_action("run_episode", goal, lambda _: None)
        return EpisodeOutcome(r.episode_id, r.path, r.success, r.outcome, r.reason, r.steps)

    def load_policy(self, folder: Path) -> str:
        """Let the policy node switch to ``folder`` between two actions; return the version that runs now.

        Raises:
            UserError: no policy node, or it refused the folder.
        """
        from grape_policy.nodes import base

        client = base.client(self._node, "load_policy")
        if not self._found(client.service_is_ready, SERVER_SECONDS):
            raise UserError("no policy node answers", _NO_GRAPH)
        future = client.call_async(client.srv_type.Request(checkpoint=str(folder.resolve())))
        if not self._until(future.done, SERVER_SECONDS):
            raise UserError("the policy node did not load in time", f"Its log: {_LOGS}")
        answer = future.result()
        if not answer.success:
            raise UserError(f"the policy node refused: {answer.message}")
        return str(answer.policy_version)

    def confirm(self, done: bool) -> str:
        """Answer the request of a waiting collection; return what it says.

        Raises:
            UserError: no collection is running, or it does not answer.
        """
        from grape_policy.nodes import base

        client = base.client(self._node, "confirm_request")
        if not self._found(client.service_is_ready, ANSWER_SECONDS):
            raise UserError("no collection is running", "Start it: grape collect")
        future = client.call_async(client.srv_type.Request(data=done))
        if not self._until(future.done, SERVER_SECONDS):
            raise UserError("the collection does not answer just now", "Try again in a moment")
        return str(future.result().message)

    def _run_action(self, key: str, goal: Any, feedback: Callable[[Any], None]) -> Any:
        from grape_policy.nodes import base

        client = base.action_client(self._node, key)
        try:
            if not self._found(client.server_is_ready, SERVER_SECONDS):
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                raise UserError(f"no episode manager on ROS domain {domain}", _NO_GRAPH)
            sent = client.send_goal_async(goal, feedback_callback=feedback)
            self._lost.clear()
            if not self._until(sent.done, SERVER_SECONDS):
                raise UserError("the episode manager does not answer", f"Its log: {_LOGS}")
            if not sent.result().accepted:
                raise UserError("the episode manager is busy", "Wait for the other run to end, or stop it")
            return self._result(sent.result())
        finally:
            client.destroy()

    def _result(self, handle: Any) -> Any:
        """Wait for a goal; Ctrl+C cancels it and waits until the open episode is closed.

        Raises:
            UserError: the episode manager crashed; one that was started again knows nothing of the goal.
        """
        result = handle.get_result_async()
        try:
            self._until(lambda: result.done() or bool(self._lost), float("inf"))
            if not result.done():
                handle.cancel_goal_async()
                if not self._until(result.done, CANCEL_SECONDS):
                    what = f"Run the same again: what is recorded stays. Its log says why: {_LOGS}"
                    raise UserError("the episode manager has ended or hangs", what)
        except KeyboardInterrupt:
            handle.cancel_goal_async()
            self._until(result.done, CANCEL_SECONDS)
            raise
        return result.result().result

    def _found(self, is_ready: Callable[[], bool], seconds: float) -> bool:
        """Wait for a server, and until it knows this client too: before, it would drop its answer."""
        from grape_policy.nodes.waiting import MATCH_SECONDS

        found = self._until(is_ready, seconds)
        self._until(lambda: False, MATCH_SECONDS if found else 0.0)
        return found

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.1)
        return True


@contextmanager
def connect() -> Iterator[Graph]:
    """Join the ROS graph for the ``with`` block; Ctrl+C stays a KeyboardInterrupt.

    Raises:
        UserError: ROS or the project's messages are not installed.
    """
    from grape_policy import stack

    os.environ.update(stack.environment())
    try:
        import rclpy
        from grape_msgs.action import Collect  # noqa: F401
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise UserError(
            f"ROS 2 cannot be used ({error})", "Run make setup, or collect with --no-ros"
        ) from error
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("grape_client", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        yield Graph(node, executor)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
