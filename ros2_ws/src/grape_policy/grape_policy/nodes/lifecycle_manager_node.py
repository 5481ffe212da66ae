"""Lifecycle manager: brings the managed nodes up in order, restarted ones too, and down in reverse order.

All are configured before the first is activated. A node that is started again after a crash is found
unconfigured and brought up like the others; one that somebody deactivated is left alone.
"""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

from grape_policy.nodes import base
from grape_policy.nodes.messages import to_stamp
from grape_policy.nodes.parameters import Parameter, declare

PARAMETERS = (
    Parameter("nodes", "", "Managed nodes, separated by commas, in the order of their activation."),
)
TICK_SECONDS = 0.1
WATCH_SECONDS = 1.0  # each node is asked for its state so often once all are up
ANSWER_SECONDS = 3.0  # a request without answer is forgotten after this and the state asked again
WORDS = {State.PRIMARY_STATE_UNKNOWN: "does not answer"}


class ManagedPeer:
    """One managed node as seen from here; at most one request to it is under way."""

    def __init__(self, owner: Node, name: str) -> None:
        self.name, self.state, self.label, self.starts = name, State.PRIMARY_STATE_UNKNOWN, "", 0
        self.wanted = True  # to be activated when it is found inactive
        self._get = owner.create_client(GetState, f"/{name}/get_state")
        self._change = owner.create_client(ChangeState, f"/{name}/change_state")
        self._request: tuple[Any, Any, float] | None = None  # client, future, deadline
        self._goal = State.PRIMARY_STATE_UNKNOWN  # of the transition that was asked for
        self._ask_at = 0.0

    def look(self, now: float, period: float) -> None:
        """Take an answer that has come; ask for the state when it is time to."""
        if self._request is not None:
            client, future, deadline = self._request
            if future.done():
                self._take(future.result())
            elif now > deadline:
                client.remove_pending_request(future)
                self._learn(State.PRIMARY_STATE_UNKNOWN, WORDS[State.PRIMARY_STATE_UNKNOWN])
            else:
                return
            self._request = None
        if now >= self._ask_at and self._get.service_is_ready():
            self._send(self._get, GetState.Request(), now)
            self._ask_at = now + period

    def change(self, transition: int, goal: int, now: float) -> None:
        """Ask for a transition to the state ``goal``, unless an answer is awaited."""
        if self._request is None:
            self._send(self._change, change_request(transition), now)
            self._goal, self._ask_at = goal, now

    def change_now(self, transition: int) -> Any:
        """Ask for a transition and return the future of the answer."""
        return self._change.call_async(change_request(transition))

    def _send(self, client: Any, request: Any, now: float) -> None:
        self._request = client, client.call_async(request), now + ANSWER_SECONDS

    def _take(self, answer: Any) -> None:
        if isinstance(answer, GetState.Response):
            self._learn(answer.current_state.id, answer.current_state.label)
        elif answer.success:
            self._learn(self._goal, "")

    def _learn(self, state: int, label: str) -> None:
        if state == State.PRIMARY_STATE_UNCONFIGURED and self.state != state:
            self.starts, self.wanted = self.starts + 1, True
        if state == State.PRIMARY_STATE_ACTIVE:
            self.wanted = False
        self.state, self.label = state, label


def change_request(transition: int) -> Any:
    """Return the request of one transition."""
    return ChangeState.Request(transition=Transition(id=transition))


class LifecycleManagerNode(Node):
    """Looks at all nodes ten times a second and does the next thing that is due; it never waits."""

    def __init__(self) -> None:
        super().__init__(base.LIFECYCLE_MANAGER)
        listed = declare(self, PARAMETERS).nodes
        names = [name.strip() for name in listed.split(",") if name.strip()]
        if not names:
            raise ValueError("lifecycle_manager: nodes is empty; name the managed nodes")
        self._peers = [ManagedPeer(self, name) for name in names]
        self.ready = False  # all were active once
        self._settled = False  # all are up that are wanted, and that was said
        self._diagnostics = base.publisher(self, "diagnostics")
        self._timer = self.create_timer(TICK_SECONDS, self._on_timer)
        self.create_timer(1.0, self._publish_diagnostics)

    def close(self) -> None:
        """Deactivate and clean up all nodes, the last one first."""
        self._timer.cancel()
        end = time.monotonic() + base.TAKE_DOWN_SECONDS
        for peer in reversed(self._peers):
            if peer.state == State.PRIMARY_STATE_ACTIVE:
                self._take_down(peer, Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE, end)
        for peer in reversed(self._peers):
            if peer.state == State.PRIMARY_STATE_INACTIVE:
                self._take_down(peer, Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED, end)

    def _on_timer(self) -> None:
        now, period = time.monotonic(), WATCH_SECONDS if self.ready else TICK_SECONDS
        for peer in self._peers:
            peer.look(now, period)
        for peer in self._peers:
            if peer.state == State.PRIMARY_STATE_UNCONFIGURED:
                peer.change(Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE, now)
        if all(p.state in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE) for p in self._peers):
            self._activate_next(now)

    def _activate_next(self, now: float) -> None:
        waiting = [p for p in self._peers if p.state == State.PRIMARY_STATE_INACTIVE and p.wanted]
        if waiting:
            waiting[0].change(Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE, now)
            self._settled = False
        elif not self._settled:
            self._settled = self.ready = True
            self.get_logger().info(f"active: {', '.join(peer.name for peer in self._peers)}")

    def _take_down(self, peer: ManagedPeer, transition: int, goal: int, end: float) -> None:
        """Ask until the node has finished what is under way, or the time is over."""
        while self.executor is not None and (left := end - time.monotonic()) > 0:
            future = peer.change_now(transition)
            self.executor.spin_until_future_complete(future, min(left, ANSWER_SECONDS))
            if not future.done():
                self.get_logger().warning(f"{peer.name} does not answer; it is left as it is")
                return
            if future.result().success:
                peer.state = goal
                return
            time.sleep(TICK_SECONDS)

    def _publish_diagnostics(self) -> None:
        down = [peer.name for peer in self._peers if peer.state != State.PRIMARY_STATE_ACTIVE]
        values = {p.name: f"{p.label or 'not found yet'}, starts: {p.starts}" for p in self._peers}
        entry = DiagnosticStatus(
            level=DiagnosticStatus.WARN if down else DiagnosticStatus.OK,
            name="grape/lifecycle",
            message=f"not active: {', '.join(down)}" if down else "all nodes are active",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[entry])
        array.header.stamp = to_stamp(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(array)


def main(arguments: list[str] | None = None) -> int:
    """Run the lifecycle manager until it is stopped."""
    return base.spin(LifecycleManagerNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
