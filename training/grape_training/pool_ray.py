"""Rollouts on a Ray cluster: the same work items as for local processes, so the same results.

Ray is optional (``pip install -r requirements-ray.txt``). Its processes trust each other: use clusters of
your own in a network of your own.
"""

from __future__ import annotations

import importlib
import logging
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from grape_training.errors import BadInputError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 80 * 2**20  # results are small; the default is a third of the machine's memory


def run_on_ray(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    address: str,
    environment: dict[str, str],
) -> Generator[tuple[Item, Result], None, None]:
    """Yield ``(item, function(item))`` in the order of completion, at most ``workers`` items at a time.

    ``address`` is ``local`` (a cluster of ``workers`` processors on this machine, gone afterwards), ``auto``
    or ``HOST:PORT``. On other machines this project and the policies must lie at the same places.

    Raises:
        BadInputError: Ray is not installed, or there is no cluster at ``address``.
        UserError: a worker died.
        Exception: whatever ``function`` raised, at once.
    """
    ray = _import_ray()
    with _cluster(ray, address, workers, environment):
        remote = ray.remote(num_cpus=1, max_retries=0)(lambda item: function(item))  # takes no partial()
        try:
            yield from _bounded(ray, remote, iter(items), workers)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"a Ray worker failed: {reason}", "Run it again to go on") from error


def _bounded(ray: ModuleType, remote: Any, items: Iterator[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """Keep ``workers`` items under way: an interrupted run then leaves no queue behind."""
    running = {remote.remote(item): item for item in _take(items, workers)}
    while running:
        done = ray.wait(list(running), num_returns=1)[0][0]
        item = running.pop(done)
        result = ray.get(done)
        running.update({remote.remote(following): following for following in _take(items, 1)})
        yield item, result


def _take(items: Iterator[Item], count: int) -> Iterable[Item]:
    return [item for _, item in zip(range(count), items, strict=False)]


def _import_ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        what = "--ray needs Ray, which is not installed"
        raise BadInputError(what, "Run: pip install -r requirements-ray.txt") from error


def check_cluster(address: str) -> None:
    """Find out at once whether Ray is installed and something listens at ``address``.

    Raises:
        BadInputError: it is not, or nothing does.
    """
    _import_ray()
    try:
        _reach(address)
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> BadInputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    remedy = "Start one with `ray start --head`, or use --ray local"
    return BadInputError(f"no Ray cluster at {address!r}: {reason}", remedy)


def _reach(address: str) -> None:
    """Try to connect to ``HOST:PORT``; Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and "/" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _cluster(ray: ModuleType, address: str, workers: int, environment: dict[str, str]) -> Iterator[None]:
    """Connect to a cluster, or start one; leave it afterwards."""
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "log_to_driver": False}
    if address == LOCAL:
        options |= {
            "address": LOCAL,
            "num_cpus": workers,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    else:
        options["address"] = address
    try:
        _reach(address)
        ray.init(logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()
