"""The supervisor with misbehaving processes: crashes, deaf ones, silent ones, and its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from grape_policy import process, supervisor
from grape_policy.stack import NodeDescription, StackError
from survivors import survivors

Make = Callable[..., NodeDescription]
PROGRAMS = {
    "steady": "import time\nprint('ready', flush=True)\ntime.sleep(600)",
    "crasher": "print('ready', flush=True)\nprint('cannot start: no camera on USB')\nraise SystemExit(3)",
    "broken": "print('cannot start: folder none was refused:\\n  - no such folder')\nraise SystemExit(1)",
    "silent": "import time\ntime.sleep(600)",
    "deaf": (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"
    ),
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of node descriptions that run the programs above."""
    for name, text in PROGRAMS.items():
        (tmp_path / f"program_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(supervisor, "RESPAWN_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(
        process, "STOP_STEPS", ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.3), (signal.SIGKILL, 5.0))
    )

    def make(program: str, name: str = "", **fields: Any) -> NodeDescription:
        return NodeDescription(name or program, "none", "none", f"program_{program}", **fields)

    return make


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_runs_sets_the_environment_and_stops_everything(node: Make, tmp_path: Path) -> None:
    before = os.environ.get("ROS_DOMAIN_ID")
    with supervisor.running_stack(
        {}, 99, tmp_path / "logs", nodes=[node("steady", "a"), node("steady", "b")]
    ) as stack:
        pids = stack.pids()
        assert set(pids) == {"a", "b"}
        assert os.environ["ROS_DOMAIN_ID"] == "99"
        assert stack.failure() == ""
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert os.environ.get("ROS_DOMAIN_ID") == before
    assert (tmp_path / "logs" / "a.log").read_text().splitlines()[0] == "ready"


def test_a_required_node_that_dies_stops_the_stack_and_is_quoted(node: Make, tmp_path: Path) -> None:
    lines: list[str] = []
    nodes = [node("silent"), node("crasher", respawns=2)]
    with (
        pytest.raises(
            StackError, match=r"crasher ended with exit code 3: cannot start: no camera on USB \(log: "
        ),
        supervisor.running_stack({}, 99, tmp_path, lambda name, line: lines.append(f"{name} {line}"), nodes),
    ):
        pass
    assert lines.count("crasher ready") == 3  # the first start and two more


def test_a_node_that_cannot_start_is_not_started_again(node: Make, tmp_path: Path) -> None:
    lines: list[str] = []
    with (
        pytest.raises(
            StackError,
            match="broken ended with exit code 1: cannot start: folder none was refused: - no such folder",
        ),
        supervisor.running_stack(
            {}, 99, tmp_path, lambda name, line: lines.append(line), [node("broken", respawns=2)]
        ),
    ):
        pass
    assert len([line for line in lines if line.startswith("cannot start")]) == 1


def test_a_node_that_is_not_required_may_end(node: Make, tmp_path: Path) -> None:
    nodes = [node("steady"), node("crasher", required=False)]
    with supervisor.running_stack({}, 99, tmp_path, nodes=nodes) as stack:
        wait_until(lambda: not psutil.pid_exists(stack.pids()["crasher"]))
        assert psutil.pid_exists(stack.pids()["steady"])
        assert stack.failure() == ""


def test_a_death_while_running_is_reported(node: Make, tmp_path: Path) -> None:
    with supervisor.running_stack(
        {}, 99, tmp_path, nodes=[node("steady", "a"), node("steady", "b")]
    ) as stack:
        pids = stack.pids()
        os.kill(pids["a"], signal.SIGKILL)
        wait_until(lambda: stack.failure() != "" and not psutil.pid_exists(pids["b"]))
        assert stack.failure().startswith("a ended with exit code -9")


def test_a_deaf_process_is_killed(node: Make, tmp_path: Path) -> None:
    with supervisor.running_stack({}, 99, tmp_path, nodes=[node("deaf")]) as stack:
        pid = stack.pids()["deaf"]
    assert not psutil.pid_exists(pid)


def test_a_suspended_process_is_woken_to_stop(
    node: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_STEPS", ((signal.SIGINT, 30.0), (signal.SIGKILL, 5.0)))
    with supervisor.running_stack({}, 99, tmp_path, nodes=[node("steady")]) as stack:
        os.kill(stack.pids()["steady"], signal.SIGSTOP)
    assert "KeyboardInterrupt" in (tmp_path / "steady.log").read_text()  # SIGINT was enough


def test_a_node_that_is_never_ready_is_named(
    node: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "READY_SECONDS", 1.0)
    nodes = [node("silent", "camera"), node("silent", "unannounced", announces_ready=False)]
    with (
        pytest.raises(StackError, match=r"not ready after 1 s: camera; see the logs"),
        supervisor.running_stack({}, 99, tmp_path, nodes=nodes),
    ):
        pass


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    missing = NodeDescription("camera", "realsense2_camera_missing", "realsense2_camera_node")
    with (
        pytest.raises(StackError, match=r"apt-get install ros-.*-realsense2-camera-missing"),
        supervisor.running_stack({}, 99, tmp_path, nodes=[missing]),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_survives_the_supervisor(node: Make, tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "from pathlib import Path\nfrom grape_policy import stack, supervisor\n"
        "names = ('steady', 'silent')\n"
        "stack.NODES = tuple(stack.NodeDescription(n, 'none', 'none', 'program_' + n) for n in names)\n"
        f"raise SystemExit(supervisor.run_stack({{}}, 99, Path({str(tmp_path)!r})))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    own = psutil.Process(parent.pid)
    wait_until(lambda: len(own.children()) == 2 and (tmp_path / "steady.log").exists())
    wait_until(lambda: "ready" in (tmp_path / "steady.log").read_text())
    children = own.children(recursive=True)
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=20)
    assert survivors(children) == []
    if number != signal.SIGKILL:
        assert parent.returncode == 0
        assert output.splitlines()[-1] == "[stack] stopped"


@pytest.mark.parametrize("value", ["abc", "102", "-1"])
def test_a_domain_that_is_none_is_refused(
    node: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", value)
    with (
        pytest.raises(StackError, match=f"ROS_DOMAIN_ID={value} is no domain"),
        supervisor.running_stack({}, None, tmp_path, nodes=[node("steady")]),
    ):
        pass
