"""Lets coroutines of a node wait for conditions and service answers, always with a time limit.

Use it in one executor thread with a reentrant callback group; a mutually exclusive one would wait for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from grape_episodes import contract
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from grape_policy.nodes import base

POLL_SECONDS = 0.02
# A server that was only just found may not know this client yet, and would drop its answer.
MATCH_SECONDS = 0.3
# A node that crashed is seen for some time still; a request that only this one receives is lost.
REPEAT_SECONDS = 1.0  # to the first repetition, then twice as long each time


class ServiceError(RuntimeError):
    """A service is absent, did not answer in time or refused; the message says which and why."""


class Waiter:
    """Wakes coroutines when their condition holds or their time is over; idle while none waits."""

    def __init__(self, node: Node, group: ReentrantCallbackGroup) -> None:
        self._waiting: list[tuple[Callable[[], bool], float, Future]] = []
        self._timer = node.create_timer(POLL_SECONDS, self.poll, callback_group=group)
        self._timer.cancel()

    def until(self, condition: Callable[[], bool], seconds: float) -> Future:
        """Return a future of True when ``condition()`` holds, or of False after ``seconds``."""
        future = Future()
        self._waiting.append((condition, time.monotonic() + seconds, future))
        if self._timer.is_canceled():
            self._timer.reset()
        return future

    def poll(self) -> None:
        """Check all conditions now."""
        waiting, self._waiting = self._waiting, []
        for condition, deadline, future in waiting:
            if condition():
                future.set_result(True)
            elif time.monotonic() >= deadline:
                future.set_result(False)
            else:
                self._waiting.append((condition, deadline, future))
        if not self._waiting:
            self._timer.cancel()


def repeatable(key: str, fields: Mapping[str, Any]) -> bool:
    """Whether a request may be sent again while it is not answered: to reset, to stop acting, to disarm.

    Requests are answered in order, so that none is left when the last one is. Those to arm and to record are
    sent once: a second one would arm after a stop that came between, or cut off the recording.
    """
    return key == "reset_scene" or fields.get("active") is False or fields.get("armed") is False


class Services:
    """Calls the contract's services by their keys.

    Args:
        node: Owner of the clients.
        keys: Services that will be called.
        waiter: Waits for the answers.
        group: The waiter's callback group.
        timeout_seconds: Limit of each call, from being called to the answer; may be changed at any time.
    """

    def __init__(
        self,
        node: Node,
        keys: Iterable[str],
        waiter: Waiter,
        group: ReentrantCallbackGroup,
        timeout_seconds: float,
    ) -> None:
        self._clients = {key: base.client(node, key, callback_group=group) for key in keys}
        self._waiter = waiter
        self._known: set[str] = set()  # those whose server has answered: it knows this client
        self.timeout_seconds = timeout_seconds

    def is_served(self, key: str) -> bool:
        """Whether anybody serves ``key`` now."""
        return bool(self._clients[key].service_is_ready())

    async def ask(self, key: str, **fields: Any) -> Any:
        """Call a service and return its response, whatever it says.

        Raises:
            ServiceError: It is absent or does not answer in time.
        """
        client, name = self._clients[key], contract.service_name(key)
        deadline = time.monotonic() + self.timeout_seconds
        if not await self._waiter.until(client.service_is_ready, self.timeout_seconds):
            raise ServiceError(f"nothing serves {name}; check that its node runs")
        if key not in self._known:
            await self._waiter.until(lambda: False, MATCH_SECONDS)
        patience = REPEAT_SECONDS if repeatable(key, fields) else self.timeout_seconds
        while (left := deadline - time.monotonic()) > 0.0:
            answer = await self._answer(client, client.srv_type.Request(**fields), min(left, patience))
            if answer is not None:
                self._known.add(key)
                return answer
            self._known.discard(key)
            patience *= 2.0
        raise ServiceError(f"{name} did not answer within {self.timeout_seconds:g} s; look at its node's log")

    async def _answer(self, client: Any, request: Any, seconds: float) -> Any:
        """Send the request once and return the response, or None when none came in time."""
        future = client.call_async(request)
        future.add_done_callback(lambda _: self._waiter.poll())
        if await self._waiter.until(future.done, max(POLL_SECONDS, seconds)):
            return future.result()
        client.remove_pending_request(future)
        return None

    async def demand(self, key: str, **fields: Any) -> Any:
        """Call a service and return its response.

        Raises:
            ServiceError: It is absent, does not answer in time, or answers with ``success`` false.
        """
        response = await self.ask(key, **fields)
        if not response.success:
            raise ServiceError(f"{contract.service_name(key)} refused: {response.message}")
        return response
