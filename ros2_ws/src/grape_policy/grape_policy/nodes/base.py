"""What every node shares: QoS and names from the contract, its life cycle, and one way to spin and stop."""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import rclpy
from grape_episodes import contract
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from grape_policy.nodes.messages import interface_type
from grape_policy.nodes.parameters import Parameter, declare

POLL_SECONDS = 0.1  # a signal is noticed at least this often while nothing else happens
SWITCH_SECONDS = 0.0005  # how long one thread may keep the interpreter from another that woke up
STARTUP_ERRORS = (ValueError, OSError, RuntimeError)  # what a bad parameter, file or device raises
LIFECYCLE_MANAGER = "lifecycle_manager"
TAKE_DOWN_SECONDS = 6.0  # in which the manager takes all nodes down
FINISH_SECONDS = 3.0  # in which a node ends what is under way
AUTOSTART = Parameter(
    "autostart", True, "Configure and activate by itself; false: wait for the lifecycle manager."
)


def qos_profile(key: str) -> QoSProfile:
    """Return the QoS of the contract's topic ``key``, e.g. ``color_image``."""
    fields = contract.document()["qos"][contract.topics()[key].qos]
    return QoSProfile(
        depth=int(fields["depth"]),
        reliability=ReliabilityPolicy[str(fields["reliability"]).upper()],
        durability=DurabilityPolicy[str(fields["durability"]).upper()],
    )


def publisher(node: Node, key: str, name: str = "") -> Any:
    """Create the publisher of the contract's topic ``key``, or of one like it called ``name``."""
    topic = contract.topics()[key]
    return node.create_publisher(interface_type(topic.type), name or topic.name, qos_profile(key))


def subscription(node: Node, key: str, callback: Callable[[Any], None], **options: Any) -> Any:
    """Create a subscription to the contract's topic ``key``; ``raw=True`` hands over serialised bytes."""
    topic = contract.topics()[key]
    return node.create_subscription(
        interface_type(topic.type), topic.name, callback, qos_profile(key), **options
    )


def heartbeat(node: Node, name: str, rate_hz: float = 0.0) -> None:
    """Publish a heartbeat called ``name`` from the node's executor: it stops when the executor hangs.

    ``rate_hz`` 0 takes the contract's rate, that of the nodes which the arm watches.
    """
    beats = publisher(node, "heartbeat")
    kind = interface_type(contract.topics()["heartbeat"].type)

    def beat() -> None:
        beats.publish(kind(stamp=node.get_clock().now().to_msg(), frame_id=name))

    node.create_timer(1.0 / (rate_hz or contract.topics()["heartbeat"].rate_hz), beat)


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


class ManagedNode(LifecycleNode):
    """A lifecycle node whose topics, services and timers exist only while it is active.

    Subclasses override the hooks ``configure``, ``activate``, ``finished``, ``deactivate`` and ``cleanup``.
    A hook that raises ends the process with the reason; whoever runs it decides about another start.

    Attributes:
        parameters: values of the node's table of parameters.
        state: ``unconfigured``, ``inactive`` or ``active``.
        configuring: whether ``configure`` is running; a signal may interrupt it.
        exit_code: set when the process has to end.
    """

    def __init__(self, name: str, table: Iterable[Parameter]) -> None:
        """Declare the parameters; raises ``ParameterError``."""
        super().__init__(name)
        self.parameters = declare(self, (*table, AUTOSTART))
        self.state = "unconfigured"
        self.configuring = False
        self.exit_code: int | None = None
        self._lasting: set[Any] = set()
        self._refuse_impossible_transitions()

    def configure(self) -> None:
        """Load and check everything that activation needs, however long it takes."""

    def activate(self) -> None:
        """Open topics, services and timers, and devices."""

    def finished(self) -> bool:
        """End what is under way; return whether it has ended. Until then the node stays active."""
        return True

    def deactivate(self) -> None:
        """Let go of what ``activate`` took; topics, services and timers are closed after it."""

    def cleanup(self) -> None:
        """Let go of what ``configure`` took."""

    @property
    def ready(self) -> bool:
        """Whether it does its work."""
        return self.state == "active"

    @property
    def waits_for_manager(self) -> bool:
        """Whether the lifecycle manager is about to take it down, in its order."""
        managed = not self.parameters.autostart and self.state != "unconfigured"
        return managed and LIFECYCLE_MANAGER in self.get_node_names()

    def begin(self) -> None:
        """Go to active, unless that is left to the lifecycle manager."""
        if self.parameters.autostart:
            self.trigger_configure()
            if self.state == "inactive":
                self.trigger_activate()

    def close(self) -> None:
        """Go back to unconfigured; what is under way gets a moment to end."""
        end = time.monotonic() + FINISH_SECONDS
        while self.state == "active" and not self.finished() and time.monotonic() < end:
            if self.executor is not None:
                self.executor.spin_once(timeout_sec=POLL_SECONDS / 2)
        if self.state == "active":
            self._leave_active()
        if self.state == "inactive":
            self._do("stop", self.cleanup, "unconfigured")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``configure``."""
        self.configuring = True
        result = self._do("start", self.configure, "inactive")
        self.configuring = False
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``activate`` and note what it opens."""
        self._lasting = {entity for entity, _ in self._entities()}
        result = self._do("start", self.activate, "active")
        gc.freeze()  # what start-up made stays: collecting garbage must not look through it while acting
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``deactivate`` and close what was opened; refused until the node has finished."""
        return self._leave_active() if self.finished() else TransitionCallbackReturn.FAILURE

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``cleanup``."""
        return self._do("stop", self.cleanup, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the process."""
        self.close()
        self.exit_code = self.exit_code or 0
        return TransitionCallbackReturn.SUCCESS

    def _leave_active(self) -> TransitionCallbackReturn:
        result = self._do("stop", self.deactivate, "inactive")
        for entity, destroy in self._entities():
            if entity not in self._lasting:
                destroy(entity)
        return result

    def _entities(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        kinds = ("publisher", "subscription", "client", "service", "timer")
        destroyers = {f"{kind}s": getattr(self, f"destroy_{kind}") for kind in kinds}
        return [(entity, destroy) for name, destroy in destroyers.items() for entity in getattr(self, name)]

    def _do(self, verb: str, hook: Callable[[], None], state: str) -> TransitionCallbackReturn:
        """Run a hook and take the new state; an error is shown, since rclpy would drop it."""
        try:
            hook()
        except STARTUP_ERRORS as error:
            print(f"cannot {verb}: {error}", file=sys.stderr, flush=True)
        except Exception:
            traceback.print_exc()
        else:
            self.state = state
            return TransitionCallbackReturn.SUCCESS
        self.exit_code = 1
        return TransitionCallbackReturn.FAILURE

    def _refuse_impossible_transitions(self) -> None:
        """Answer a transition that does not exist in this state with a refusal: rclpy would end the node."""
        change = self._service_change_state.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except rclpy_implementation.RCLError as error:
                self.get_logger().warning(f"transition {request.transition.id} refused: {error}")
                response.success = False
                return response

        self._service_change_state.callback = answer


class _Stop:
    """Counts SIGINT and SIGTERM; the context stays valid, so a node can still publish and close its files."""

    def __init__(self) -> None:
        self.node: Any = None
        self._requests, self._first = 0, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    @property
    def due(self) -> bool:
        """Whether to end: when the manager has taken the node down, else at once; so on a second signal."""
        if self._requests != 1 or not getattr(self.node, "waits_for_manager", False):
            return self._requests > 0
        return time.monotonic() > self._first + TAKE_DOWN_SECONDS

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        self._first = self._first or time.monotonic()
        if self.node is None or getattr(self.node, "configuring", False):  # there is no loop that would look
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
        node = stop.node = node_factory()
        executor.add_node(node)
        if isinstance(node, ManagedNode):
            node.begin()
        announced = False
        while not stop.due and rclpy.ok() and getattr(node, "exit_code", None) is None:
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
