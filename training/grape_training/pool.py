"""Worker processes for rollouts: one thread each, results as they come, nothing left behind."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from grape_training.errors import BadInputError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0"}
_PR_SET_PDEATHSIG = 1


def run_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, ray: str = ""
) -> Generator[tuple[Item, Result], None, None]:
    """Yield ``(item, function(item))`` in the order of completion, from ``workers`` spawned processes.

    ``ray``: run on a Ray cluster instead (``local``, ``auto`` or its address), ``workers`` items at a time.

    ``function`` and the items must be picklable. Workers ignore Ctrl+C and die with their parent: use
    ``contextlib.closing``, so that they end at once when the caller is interrupted.

    Raises:
        UserError: a worker was killed (most likely for lack of memory).
        Exception: whatever ``function`` raised, at once.
    """
    if workers < 1:
        raise BadInputError(f"{workers} worker processes", "Use at least one")
    if not items:
        return
    if ray:
        from grape_training.pool_ray import run_on_ray

        yield from run_on_ray(function, items, workers, ray, ENVIRONMENT)
        return
    with _environment():
        executor = ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), _start_worker)
        try:
            with _ignored_interrupt():
                futures = {executor.submit(function, item): item for item in items}
            yield from _completed(futures)
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed", "Free some memory or use --workers 1") from error
        finally:
            _stop(executor)


def _completed(futures: dict[Future[Result], Item]) -> Iterator[tuple[Item, Result]]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield futures[future], future.result()


def _stop(executor: ProcessPoolExecutor) -> None:
    """End the workers now, also in the middle of an item."""
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.terminate()
    executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def termination_deferred() -> Iterator[None]:
    """Let the end of a worker wait until the end of the block, so that it leaves no half-written file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextmanager
def _environment() -> Iterator[None]:
    """Let the workers start with one thread and off-screen rendering."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _ignored_interrupt() -> Iterator[None]:
    """Children inherit an ignored Ctrl+C, so that none prints a traceback while it starts."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread: Ctrl+C is not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
