"""Ctrl+C anywhere in the loop: no process stays, no half-written file, and the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from survivors import survivors
from vla_factory import tiny_checkpoint

pytestmark = pytest.mark.slow
TINY_LOOP = """
import sys
from pathlib import Path
from grape_training import cli, loop

def run():
    tasks = ("stack_cube",)
    sizes = dict(tasks=tasks, tries=2, states=1, rollouts=1, eval_states=2, max_steps=2, workers=1, ros=False)
    sizes["reject_greedy"] = False  # two failures make a pair whichever of them is the better one
    loop.run_loop(loop.LoopOptions(output=Path("run"), checkpoint=Path("policy"), **sizes))

if __name__ == "__main__":
    cli.run_safely(run)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    script = folder / "tiny_loop.py"
    script.write_text(TINY_LOOP)
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that the signal reaches the whole group, as from a terminal
    )


def interrupt(process: subprocess.Popen[str], condition: Callable[[], bool]) -> str:
    """Send Ctrl+C to the group when ``condition`` holds; return what was printed."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=90)[1]


def left_behind(group: int) -> list[psutil.Process]:
    """Return the processes of the group that still run five seconds after its leader ended."""
    members = [process for process in psutil.process_iter() if _in_group(process, group)]
    return survivors(members)


def _in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def test_interrupted_twice_and_run_to_the_end(tmp_path):
    tiny_checkpoint(tmp_path / "policy")
    run = tmp_path / "run"
    for sign in ("episodes/*/episode.json", "evaluation/*.jsonl"):
        process = start(tmp_path)
        errors = interrupt(process, lambda sign=sign: bool(list(run.glob(sign))))
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert "run the same command again" in errors
        assert not left_behind(process.pid)
        assert not [path for path in run.rglob("*") if path.name.endswith((".tmp", ".part"))]
        for path in run.rglob("*.json"):
            json.loads(path.read_text())
    process = start(tmp_path)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "try: done before" in errors
    assert "collect: done before" in errors
    summary = json.loads((run / "summary.json").read_text())
    assert summary["episodes"] == 3
    assert summary["states_sampled"] == 1
    assert summary["evaluation_episodes"] == 4
    assert summary["promoted"] is False
    assert "gate:" in output
