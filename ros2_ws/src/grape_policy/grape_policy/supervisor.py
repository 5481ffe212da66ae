"""Runs the stack as processes where ROS 2's launch is absent, from the same description as the launch files.

Nothing survives it: every node is killed by the kernel when the supervisor dies, even by ``kill -9``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from grape_policy import domain, stack
from grape_policy.process import SupervisedProcess
from grape_policy.respawn import RESPAWN_DELAY_SECONDS, RespawnBudget
from grape_policy.stack import NodeDescription, StackError

READY_SECONDS = 180.0  # importing torch takes long on a busy machine
LineHandler = Callable[[str, str], None]


def ignore_line(name: str, line: str) -> None:
    """Drop a line of a node's output from the console; the log file has it."""


def print_line(name: str, line: str) -> None:
    """Show a line of a node's output on the console."""
    print(f"[{name}] {line}", flush=True)


def command(node: NodeDescription, arguments: Mapping[str, stack.Value]) -> list[str]:
    """Return the command line of ``node``: our modules run under this interpreter, others as ROS executables.

    Raises:
        StackError: neither the module nor the package's executable is installed.
    """
    if node.module and find_spec(node.module.partition(".")[0]) is not None:
        return [sys.executable, "-m", node.module, *stack.ros_arguments(node, arguments)]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        executable = shutil.which(node.executable, path=str(Path(prefix) / "lib" / node.package))
        if prefix and executable:
            return [executable, *stack.ros_arguments(node, arguments)]
    raise StackError(
        f"{node.name}: package {node.package} is not installed; on Jazzy: apt-get install {_deb(node)}"
    )


def _deb(node: NodeDescription) -> str:
    return f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{node.package.replace('_', '-')}"


class Supervisor:
    """Starts the nodes, respawns those that may be, and stops everything when a required one is gone."""

    def __init__(
        self,
        arguments: Mapping[str, stack.Value],
        domain_id: int | None = None,
        log_folder: Path = Path("runs/logs"),
        on_line: LineHandler = ignore_line,
        nodes: Sequence[NodeDescription] | None = None,
    ) -> None:
        """Check the arguments and prepare the processes; ``nodes`` defaults to those of the stack."""
        self.arguments = stack.resolve_arguments(arguments)
        self.on_line = on_line
        self.reason = ""  # why the stack ended by itself; empty while it runs and after a requested stop
        self.environment = client_environment(log_folder, domain_id)
        self.domain_id = _domain_id(self.environment)
        self._log_folder = log_folder
        self._stopping = asyncio.Event()
        self.nodes = list(nodes or stack.selected_nodes(self.arguments))
        self.processes = {n.name: self._process(n) for n in self.nodes}

    def _process(self, node: NodeDescription) -> SupervisedProcess:
        line = command(node, self.arguments)
        environment = {**os.environ, **self.environment}
        return SupervisedProcess(node.name, line, environment, self._log_folder / f"{node.name}.log")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by node name."""
        return {name: process.pid for name, process in self.processes.items() if process.pid is not None}

    def request_stop(self) -> None:
        """Ask ``run`` to stop everything; call it in the event loop."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Run until ``request_stop`` (returns 0) or until a required node is gone (1, see ``reason``)."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        tasks = [asyncio.create_task(self._keep_running(n)) for n in self.nodes]
        ready = asyncio.create_task(self._announce(on_ready))
        try:
            await self._stopping.wait()
        finally:
            ready.cancel()
            for first in (True, False):
                wave = [self.processes[n.name].stop() for n in self.nodes if n.stops_first is first]
                await asyncio.gather(*wave)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, ready, return_exceptions=True)
        return 1 if self.reason else 0

    async def _keep_running(self, node: NodeDescription) -> None:
        process = self.processes[node.name]
        process.log.unlink(missing_ok=True)
        budget = RespawnBudget(node.respawns)
        while True:
            end = await self._run_once(process)
            if self._stopping.is_set():
                return
            self.on_line(node.name, end)
            could_start = process.ready.is_set() or not node.announces_ready  # else it would fail again
            if not could_start or not budget.grant(time.monotonic()):
                break
            await asyncio.sleep(RESPAWN_DELAY_SECONDS)
        if node.required:
            self._fail(f"{node.name} {end}{_quoted_end(process)}")

    async def _run_once(self, process: SupervisedProcess) -> str:
        try:
            return f"ended with exit code {await process.run(self.on_line)}"
        except (OSError, ValueError) as error:  # cannot be started, or an endless line of output
            await process.stop()
            return f"failed: {error}"

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        waiting = {n.name: self.processes[n.name] for n in self.nodes if n.announces_ready}
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.gather(*(process.ready.wait() for process in waiting.values()))
        except TimeoutError:
            late = ", ".join(name for name, process in waiting.items() if not process.ready.is_set())
            self._fail(f"not ready after {READY_SECONDS:g} s: {late}; see the logs in {self._log_folder}")
        else:
            on_ready()

    def _fail(self, reason: str) -> None:
        """Stop the stack for ``reason``; the first reason wins."""
        self.reason = self.reason or reason
        self._stopping.set()


def _domain_id(environment: Mapping[str, str]) -> int:
    try:
        return domain.parse_domain({**os.environ, **environment}.get("ROS_DOMAIN_ID", ""))
    except ValueError as error:
        raise StackError(str(error)) from None


def _quoted_end(process: SupervisedProcess) -> str:
    """Return what the process said last: its start-up error with all its lines, or its last line."""
    lines = [line.strip() for line in process.last_lines if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("cannot start: ")]
    said = " ".join(lines[starts[-1] :] if starts else lines[-1:])
    return f": {said} (log: {process.log})" if said else f" (log: {process.log})"


def client_environment(log_folder: Path, domain_id: int | None) -> dict[str, str]:
    """Return the variables that put a process on the stack's domain; ROS logs go below ``log_folder``."""
    variables = stack.environment() | {"ROS_LOG_DIR": str(log_folder.absolute() / "ros")}
    return variables if domain_id is None else variables | {"ROS_DOMAIN_ID": str(domain_id)}


@dataclass(frozen=True)
class RunningStack:
    """What a client of the running stack needs."""

    environment: dict[str, str]
    pids: Callable[[], dict[str, int]]
    failure: Callable[[], str]
    log_folder: Path


@contextmanager
def running_stack(
    arguments: Mapping[str, stack.Value] | None = None,
    domain_id: int | None = None,
    log_folder: Path = Path("runs/logs"),
    on_line: LineHandler = ignore_line,
    nodes: Sequence[NodeDescription] | None = None,
) -> Iterator[RunningStack]:
    """Run the stack in the background during the ``with`` block, which begins when all nodes are ready.

    The variables a client in this process needs are set in ``os.environ`` for that time.

    Raises:
        StackError: wrong arguments, a node that did not start, or not ready in time.
    """
    loop = asyncio.new_event_loop()
    changed = threading.Event()

    async def start() -> Supervisor:
        return Supervisor(arguments or {}, domain_id, log_folder, on_line, nodes)

    supervisor = loop.run_until_complete(start())

    def run() -> None:
        try:
            loop.run_until_complete(supervisor.run(changed.set))
        except OSError as error:  # e.g. a log folder that cannot be written
            supervisor.reason = str(error)
        finally:
            changed.set()

    # The kernel kills the nodes when the thread that started them ends; this one lives as long as they do.
    thread = threading.Thread(target=run, name="supervisor", daemon=True)
    saved = {name: os.environ.get(name) for name in supervisor.environment}
    with _claimed(supervisor.domain_id):
        thread.start()
        try:
            changed.wait()
            if supervisor.reason:
                raise StackError(supervisor.reason)
            os.environ.update(supervisor.environment)
            yield RunningStack(
                supervisor.environment, lambda: supervisor.pids, lambda: supervisor.reason, log_folder
            )
        finally:
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(supervisor.request_stop)
            thread.join()
            loop.close()
            for name, value in saved.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def _claimed(domain_id: int) -> Iterator[None]:
    """Hold the domain for this stack; a StackError when another one has it."""
    with ExitStack() as claims:
        try:
            claims.enter_context(domain.claimed_by_stack(domain_id))
        except OSError as error:
            raise StackError(str(error)) from None
        yield


def run_stack(
    arguments: Mapping[str, stack.Value], domain_id: int | None = None, log_folder: Path = Path("runs/logs")
) -> int:
    """Run the stack in the foreground, with its output, until SIGINT or SIGTERM; return the exit code.

    Raises:
        StackError: wrong arguments or a package that is not installed.
    """

    async def main() -> int:
        supervisor = Supervisor(arguments, domain_id, log_folder, print_line)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.request_stop)
        with _claimed(supervisor.domain_id):
            code = await supervisor.run(lambda: print("[stack] ready; Ctrl+C stops it", flush=True))
        print(f"[stack] {supervisor.reason or 'stopped'}", flush=True)
        return code

    return asyncio.run(main())
