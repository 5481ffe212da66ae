"""What every node shares: QoS and names from the contract, and one way to start, spin and stop cleanly."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import rclpy
from grape_episodes import contract
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from grape_policy.nodes.messages import interface_type

POLL_SECONDS = 0.1  # a signal is noticed at least this often while nothing else happens
SWITCH_SECONDS = 0.0005  # how long one thread may keep the interpreter from another that woke up
STARTUP_ERRORS = (ValueError, OSError, RuntimeError)  # what a bad parameter, file or device raises


def qos_profile(key: str) -> QoSProfile:
    """Return the QoS of the contract's topic ``key``, e.g. ``color_image``."""
    fields = contract.document()["qos"][contract.topics()[key].qos]
    return QoSProfile(
        depth=int(fields["depth"]),
        reliability=ReliabilityPolicy[str(fields["reliability"]).upper()],
        durability=DurabilityPolicy[str(fields["durability"]).upper()],
    )


def publisher(node: Node, key: str) -> Any:
    """Create the publisher of the contract's topic ``key``."""
    topic = contract.topics()[key]
    return node.create_publisher(interface_type(topic.type), topic.name, qos_profile(key))


def subscription(node: Node, key: str, callback: Callable[[Any], None], **options: Any) -> Any:
    """Create a subscription to the contract's topic ``key``; ``raw=True`` hands over serialised bytes."""
    topic = contract.topics()[key]
    return node.create_subscription(
        interface_type(topic.type), topic.name, callback, qos_profile(key), **options
    )


def heartbeat(node: Node, name: str) -> None:
    """Publish a heartbeat called ``name`` from the node's executor: it stops when the executor hangs."""
    beats = publisher(node, "heartbeat")
    kind = interface_type(contract.topics()["heartbeat"].type)

    def beat() -> None:
        beats.publish(kind(stamp=node.get_clock().now().to_msg(), frame_id=name))

    node.create_timer(1.0 / contract.topics()["heartbeat"].rate_hz, beat)


def service(node: Node, key: str, callback: Callable[[Any, Any], Any], **options: Any) -> Any:
    """Create the server of the contract's service ``key``."""
    fields = contract.document()["services"][key]
    return node.create_service(interface_type(fields["type"]), fields["name"], callback, **options)


def client(node: Node, key: str, **options: Any) -> Any:
    """Create a client of the contract's service ``key``."""
    fields = contract.document()["services"][key]
    return node.create_client(interface_type(fields["type"]), fields["name"], **options)


def action_server(node: Node, key: str, execute: Callable[[Any], Any], **options: Any) -> Any:
    """Create the server of the contract's action ``key``."""
    fields = contract.document()["actions"][key]
    return ActionServer(node, interface_type(fields["type"]), fields["name"], execute, **options)


def action_client(node: Node, key: str) -> Any:
    """Create a client of the contract's action ``key``."""
    fields = contract.document()["actions"][key]
    return ActionClient(node, interface_type(fields["type"]), fields["name"])


class _Stop:
    """Set by SIGINT or SIGTERM; the context stays valid, so a node can still publish and close its files."""

    def __init__(self) -> None:
        self.requested = False
        self.starting = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.starting:  # there is no loop yet that would look
            raise KeyboardInterrupt


def spin(node_factory: Callable[[], Node], arguments: list[str] | None = None) -> int:
    """Run one node until SIGINT or SIGTERM and return the process's exit code.

    The line ``ready`` is printed once the node is: at once, or when its attribute ``ready`` becomes true.
    A node that has work with an end sets its attribute ``exit_code`` when it is done.
    Start-up errors print one line and return 1.  On the way out the node's ``close()``, when it has one, runs
    while it can still publish; then all is destroyed, because a process that leaves DDS open may abort.
    """
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop, node = _Stop(), None
    sys.setswitchinterval(SWITCH_SECONDS)
    executor = SingleThreadedExecutor()
    try:
        node = node_factory()
        gc.freeze()  # what start-up made stays: collecting garbage must not look through it while acting
        stop.starting = False
        executor.add_node(node)
        announced = False
        while not stop.requested and rclpy.ok() and getattr(node, "exit_code", None) is None:
            if not announced and getattr(node, "ready", True):
                announced = True
                print("ready", flush=True)
            executor.spin_once(timeout_sec=POLL_SECONDS)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except STARTUP_ERRORS as error:
        if node is not None:
            raise  # not a start-up error: show where it came from
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        _shut_down(node, executor)
    exit_code: int | None = getattr(node, "exit_code", None)
    return exit_code or 0


def _shut_down(node: Node | None, executor: SingleThreadedExecutor) -> None:
    """Close the node, stop the executor and leave DDS; every step runs even when one before it fails."""
    try:
        if node is not None and hasattr(node, "close"):
            node.close()
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
