"""The scoring node: an action server that scores a folder of episodes, one goal at a time."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any

import rclpy
from grape_episodes import contract
from grape_episodes.types import EpisodeError
from grape_msgs.action import ScoreEpisodes
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidParameterException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from grape_preference.folder import FolderScores, score_folder
from grape_preference.judge import JUDGES, KEYPOINTS
from grape_preference.objectives import DEFAULT_OBJECTIVE, OBJECTIVES
from grape_preference.plans import ScoringOptions
from grape_preference.rewards import DEFAULT_PRESET
from grape_preference.scoring import Score


@dataclass(frozen=True)
class Parameter:
    """One row of the table; ``bounds`` of an integer."""

    name: str
    default: bool | int | str
    description: str
    bounds: tuple[int, int] | None = None


# The one table of the node's parameters: name, default, bounds, meaning.
PARAMETERS = (
    Parameter("workers", 2, "Scoring processes.", (1, 64)),
    Parameter("top", 1, "Pair the best so many with the worst so many.", (1, 100)),
    Parameter("reject_greedy", False, "Reject a state's greedy rollout that failed; never choose it."),
    Parameter("among_successes", False, "Pair a state's successes among themselves too."),
    Parameter("balance", True, "Keep as many pairs of every task that has any."),
    Parameter("objective", DEFAULT_OBJECTIVE, f"One of {', '.join(OBJECTIVES)}."),
    Parameter("judge", KEYPOINTS, f"Who says whether an episode succeeded: one of {', '.join(JUDGES)}."),
)
PAIRING = ("top", "reject_greedy", "among_successes", "balance")  # arguments of ``score_folder`` too
POLL_SECONDS = 0.1


class _Stopped(Exception):
    """The goal was cancelled or the node is shutting down."""


class PreferenceNode(Node):
    """Serves the contract's action ``score_episodes``."""

    def __init__(self) -> None:
        super().__init__("preference")
        values = {parameter.name: self._declare(parameter) for parameter in PARAMETERS}
        self._workers = int(values["workers"])
        self._pairing: dict[str, Any] = {name: values[name] for name in PAIRING}
        self._options = ScoringOptions(str(values["objective"]), str(values["judge"]))
        self._busy = threading.Lock()
        self._closing = threading.Event()
        name = contract.action_name("score_episodes")
        self._server = ActionServer(
            self,
            ScoreEpisodes,
            name,
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._accept,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def close(self) -> None:
        """Let a running goal end at the next episode."""
        self._closing.set()

    def _declare(self, parameter: Parameter) -> bool | int | str:
        descriptor = ParameterDescriptor(description=parameter.description, read_only=True)
        if parameter.bounds is not None:
            lowest, highest = parameter.bounds
            descriptor.integer_range = [IntegerRange(from_value=lowest, to_value=highest, step=1)]
        value: bool | int | str = self.declare_parameter(parameter.name, parameter.default, descriptor).value
        return value

    def _accept(self, _: Any) -> GoalResponse:
        if not self._busy.acquire(blocking=False):
            self.get_logger().warning(
                "refused a goal: another folder is being scored; wait for it or cancel it"
            )
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, goal_handle: Any) -> Any:
        result = ScoreEpisodes.Result()
        try:
            scores = self._score(goal_handle)
            _fill(result, scores)
            goal_handle.succeed()
        except _Stopped:
            result.message = "stopped before all episodes were scored; nothing was written"
            goal_handle.canceled() if goal_handle.is_cancel_requested else goal_handle.abort()
        except (ValueError, OSError, EpisodeError) as error:
            result.message = str(error)
            goal_handle.abort()
        finally:
            self._busy.release()
        self.get_logger().info(result.message)
        return result

    def _score(self, goal_handle: Any) -> FolderScores:
        def report(done: int, total: int, score: Score) -> None:
            if goal_handle.is_cancel_requested or self._closing.is_set():
                raise _Stopped
            goal_handle.publish_feedback(_feedback(done, total, score))

        goal = goal_handle.request
        return score_folder(
            goal.episodes_root,
            goal.output or None,
            goal.workers or self._workers,
            preset=goal.preset or DEFAULT_PRESET,
            options=self._options,
            progress=False,
            on_score=report,
            **self._pairing,
        )


def _feedback(done: int, total: int, score: Score) -> Any:
    return ScoreEpisodes.Feedback(
        done=done,
        total=total,
        episode_id=score.episode_id,
        verdict=score.verdict,
        score=float("nan") if score.r_ext is None else score.r_ext,
    )


def _fill(result: Any, scores: FolderScores) -> None:
    result.success = True
    result.path = str(scores.scores_path.parent)
    result.scored = scores.scored
    result.refused = len(scores.scores) - scores.scored
    result.pairs = len(scores.pairs)
    result.message = f"{result.scored} episodes scored, {result.refused} refused, {result.pairs} pairs"


def main() -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    executor, node = MultiThreadedExecutor(num_threads=3), None
    try:
        node = PreferenceNode()
        executor.add_node(node)
        print("ready", flush=True)
        while not stop.is_set() and rclpy.ok():
            executor.spin_once(timeout_sec=POLL_SECONDS)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (InvalidParameterException, InvalidParameterValueException, ValueError) as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        _shut_down(node, executor)
    return 0


def _shut_down(node: PreferenceNode | None, executor: MultiThreadedExecutor) -> None:
    """End a running goal first, then the executor, then leave DDS."""
    if node is not None:
        node.close()
    executor.shutdown()
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
