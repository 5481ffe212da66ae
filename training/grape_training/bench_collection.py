"""A collection in simulation while real faults are injected; afterwards everything it left is checked.

The collection is the real command in a process of its own, with the real graph below it. Faults by signal hit
real processes; those of camera, arm, clock and reset come from ``grape_sim.faulty_node``, which stands in for
the simulation node; the full disk is a limit on the size of files (RLIMIT_FSIZE) of the recorder's process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from grape_policy.collection.task_list import TaskList, simulated_task_list
from grape_policy.process import LIBC, PR_SET_PDEATHSIG

from grape_training.bench_collection_checks import check_episodes
from grape_training.bench_collection_faults import Fault, Injector, family, schedule
from grape_training.bench_collection_motion import check_motion
from grape_training.errors import UserError

TASKS = ("carrot_on_plate", "eggplant_in_basket", "stack_cube", "spoon_on_towel")
LOOK_SECONDS, POLL_SECONDS = 1.0, 0.05
MAX_STARTS_IN_VAIN = 3  # of the collection, one after another, without an episode between


@dataclass
class Run:
    """What happened: injected faults, starts of the collection with what each said last, processes seen."""

    injected: list[Fault] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    processes: set[tuple[int, float]] = field(default_factory=set)


def task_list(episodes: int, max_steps: int, seed: int) -> TaskList:
    """Return a list of at least ``episodes`` rollouts, two of each state, of as many tasks as fit."""
    tasks = TASKS[: max(1, min(len(TASKS), episodes // 4))]
    states = -(-episodes // (2 * len(tasks)))
    return simulated_task_list(
        tasks,
        name="faults",
        states=states,
        rollouts=2,
        seed=seed,
        max_steps=max_steps,
        retries=8,
        limits={"free_gigabytes": 0.2, "ready_seconds": 240},
    )


def measure(
    policy: Path, output: Path, episodes: int, share: float, seed: int, max_steps: int
) -> dict[str, Any]:
    """Run the collection with its faults in ``output`` and return what the checks found.

    Raises:
        UserError: The collection does not start.
    """
    from grape_policy.domain import reserved_domain

    from grape_training.bench_collection_monitor import Monitor

    wanted, faults = task_list(episodes, max_steps, seed), schedule(episodes, share, seed)
    output.mkdir(parents=True, exist_ok=True)
    (output / "task_list.json").write_text(wanted.model_dump_json())
    begin, run = time.monotonic(), Run()
    with ExitStack() as resources:
        domain = resources.enter_context(reserved_domain())
        monitor = resources.enter_context(Monitor(domain))
        _run_to_the_end(policy, output, domain, faults, monitor, run)
    left = [pid for pid, created in run.processes if _is_alive(pid, created)]
    episodes_found = check_episodes(output / "episodes", wanted, monitor.started)
    motion = check_motion(output / "episodes", monitor.log)
    counts = Counter(fault.kind for fault in run.injected)
    unsafe, lost = len(motion["violations"]), len(episodes_found["lost"])
    return {
        "ok": not (unsafe or lost or episodes_found["problems"] or left or len(run.injected) < len(faults)),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "faults": dict(sorted(counts.items())),
        "faults_planned": len(faults),
        "starts": len(run.ends),
        "ends": run.ends,
        "processes_left": left,
        "unsafe": unsafe,
        "lost": lost,
        **episodes_found["counts"],
        "problems": episodes_found["problems"] + [f"lost: {name}" for name in episodes_found["lost"]],
        "motion": motion,
    }


def _run_to_the_end(
    policy: Path, output: Path, domain: int, faults: list[Fault], monitor: Any, run: Run
) -> None:
    """Start the collection, and again whenever it ended, until nothing is left to do."""
    waiting, in_vain = list(faults), 0
    while in_vain < MAX_STARTS_IN_VAIN:
        seen = len(monitor.started)
        log = (output / "collect.log").open("ab")
        child = subprocess.Popen(
            _command(policy, output),
            env=_environment(domain),
            stdout=log,
            stderr=log,
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # nothing outlives this process
        )
        injector = Injector(child, monitor, waiting)
        try:
            _attend(child, injector, run)
        finally:
            injector.close()
            run.injected += injector.injected
            _end(child)
            log.close()
        last = (output / "collect.log").read_text(errors="replace").strip().splitlines()
        run.ends.append(f"{child.returncode}: {last[-1] if last else ''}")
        if child.returncode == 0 and len(monitor.started) == seen:
            return
        in_vain = 0 if len(monitor.started) > seen else in_vain + 1
    raise UserError(f"the collection ended {in_vain} times without an episode", f"See {output}/collect.log")


def _command(policy: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "grape_training.bench_collection_child", str(policy), str(output)]


def _environment(domain: int) -> dict[str, str]:
    return {**os.environ, "ROS_DOMAIN_ID": str(domain)}


def _attend(child: subprocess.Popen[bytes], injector: Injector, run: Run) -> None:
    """Inject what is due until the collection ends."""
    looked = 0.0
    while child.poll() is None:
        injector.step()
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            _remember(child.pid, run)
        time.sleep(POLL_SECONDS)


def _remember(pid: int, run: Run) -> None:
    for process in family(pid):
        try:
            run.processes.add((process.pid, process.create_time()))
        except psutil.NoSuchProcess:
            continue


def _is_alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """Make sure that the collection is gone, with the time it needs to close its files."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=40)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def summary_text(found: dict[str, Any]) -> str:
    """Return the result for people."""
    return json.dumps({key: value for key, value in found.items() if key != "ends"}, indent=2)
