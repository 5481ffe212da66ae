"""A node of a test in its own ROS context: it collects topics and calls services by their contract keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


class Probe:
    """A node of the test: collects topics and calls services by their contract keys."""

    def __init__(self, node: Any, executor: Any) -> None:
        self.node, self._executor = node, executor
        self.received: dict[str, list[Any]] = {}
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}

    def listen(self, *keys: str) -> None:
        from grape_policy.nodes import base

        for key in keys:
            self.received[key] = []
            base.subscription(self.node, key, self.received[key].append)

    def publish(self, key: str, message: Any) -> None:
        from grape_policy.nodes import base

        if key not in self._publishers:
            self._publishers[key] = base.publisher(self.node, key)
            self.until(lambda: self._publishers[key].get_subscription_count() > 0, 10, f"a reader of {key}")
            self.spin(0.5)  # the reader may learn of us later than we of it, and drops what comes before
        self._publishers[key].publish(message)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"no {what} within {seconds} s"
            self._executor.spin_once(timeout_sec=0.05)

    def wait_for(
        self, key: str, condition: Callable[[Any], bool] = lambda _: True, seconds: float = 15
    ) -> Any:
        """Return the first message of ``key``, received from now on or already, that meets ``condition``."""
        found = SimpleNamespace(message=None)

        def look() -> bool:
            found.message = next((m for m in self.received[key] if condition(m)), None)
            return found.message is not None

        self.until(look, seconds, f"message of {key} that fits")
        return found.message

    def found(self, is_ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a server, and until it knows this client as well: before, its answers are lost."""
        self.until(is_ready, seconds, what)
        self.spin(0.5)

    def call(self, key: str, seconds: float = 15, **fields: Any) -> Any:
        """Return the answer; a server that has just replaced a dead one must have been heard before."""
        from grape_policy.nodes import base

        fresh = key not in self._clients
        client = self._clients[key] = base.client(self.node, key) if fresh else self._clients[key]
        if fresh or not client.service_is_ready():
            self.found(client.service_is_ready, seconds, f"service {key}")
        future = client.call_async(client.srv_type.Request(**fields))
        self.until(future.done, seconds, f"answer of {key}")
        return future.result()


@contextmanager
def probe_node(domain_id: int) -> Iterator[Probe]:
    """Yield a probe on the domain; it leaves the graph at the end."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = rclpy.create_node("probe", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        yield Probe(node, executor)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
