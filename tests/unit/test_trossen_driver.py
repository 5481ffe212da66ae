"""The driver of Trossen's WidowX AI against the vendor's library and a simulator of its controller."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from grape_policy.arm import trossen
from grape_policy.arm.controller import JointTarget
from grape_policy.arm.description import load_description
from grape_policy.arm.loop import ArmLoop, Timeouts
from grape_policy.arm.safety import Reason, State
from grape_policy.arm.trossen import TrossenDriver
from trossen_simulator import ADDRESS, simulator

pytest.importorskip("trossen_arm", reason="optional: .venv/bin/pip install trossen-arm -c constraints.txt")
pytest.importorskip("trossen_arm_sim", reason="optional: .venv/bin/pip install trossen-arm-sim")

ROBOT = load_description("wxai")
TICK = 0.01
FAULT_SECONDS = trossen.ANSWER_TIMEOUT + 0.1


@pytest.fixture
def running() -> Iterator[SimpleNamespace]:
    """A simulated controller, the connected driver and an arm loop over it."""
    with simulator() as process:
        driver = TrossenDriver(ROBOT, ADDRESS)
        yield SimpleNamespace(
            process=process, driver=driver, loop=ArmLoop(ROBOT, driver, timeouts=Timeouts(overdue=5.0))
        )
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        driver.close()


def measured(driver: TrossenDriver) -> np.ndarray:
    measurement = driver.read()
    assert measurement is not None
    return measurement.joints


def arm(loop: ArmLoop) -> None:
    success, message = loop.arm(time.monotonic())
    assert success, message


def run(loop: ArmLoop, seconds: float, until_stopped: bool = False) -> float:
    """Tick in real time for ``seconds``, or until the arm is stopped; return how long it took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        loop.tick(time.monotonic())
        if until_stopped and loop.status.state != State.ARMED:
            break
        time.sleep(TICK)
    return time.monotonic() - start


def raise_arm(running: SimpleNamespace, times: int) -> None:
    """Move up by 30 mm ``times`` times; the folded arm has room above it."""
    for _ in range(times):
        running.loop.act([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 1.0], 0.0, time.monotonic())
        run(running.loop, 0.2)


def test_reads_the_joints_and_moves_only_when_armed(running: SimpleNamespace) -> None:
    driver, loop = running.driver, running.loop
    start = measured(driver)
    np.testing.assert_allclose(start, np.zeros(6), atol=0.01)  # folded at rest, where the simulator begins
    raise_arm(running, 1)
    np.testing.assert_allclose(measured(driver), start, atol=1e-3)
    arm(loop)
    pose = loop._controller.pose_of(start).position
    raise_arm(running, 2)
    run(loop, 0.5)
    assert loop.status.state == State.ARMED, loop.status.message
    raised = loop._controller.pose_of(measured(driver)).position - pose
    np.testing.assert_allclose(raised, [0.0, 0.0, 0.06], atol=0.01)
    measurement = driver.read()
    assert measurement is not None
    assert measurement.gripper_m > 0.02  # it was told to open


def test_a_stop_brakes_and_holds(running: SimpleNamespace) -> None:
    arm(running.loop)
    raise_arm(running, 1)
    running.loop.act([0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0], 0.0, time.monotonic())
    run(running.loop, 0.05)
    running.loop.emergency_stop(True)
    run(running.loop, 0.5)
    held = measured(running.driver)
    run(running.loop, 0.3)
    np.testing.assert_allclose(measured(running.driver), held, atol=2e-3)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL, signal.SIGUSR1])
def test_losing_the_arm_in_motion_is_a_driver_fault_in_time(
    running: SimpleNamespace, how: signal.Signals
) -> None:
    """No answer any more, the connection gone, and an error state of its own."""
    arm(running.loop)
    raise_arm(running, 1)
    running.process.send_signal(how)
    seconds = run(running.loop, 3.0, until_stopped=True)
    assert running.loop.status.state == State.STOPPED
    assert running.loop.status.reason == Reason.DRIVER_FAULT, running.loop.status.message
    assert seconds < FAULT_SECONDS, running.loop.status.message
    assert not running.loop.arm(time.monotonic() + 1.0)[0]


def test_nothing_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trossen, "CONNECT_SECONDS", 0.3)
    with pytest.raises(RuntimeError, match="connect"):
        TrossenDriver(ROBOT, "127.0.0.2")


def test_a_description_wider_than_the_arm_is_refused() -> None:
    wide = replace(ROBOT, upper=ROBOT.upper + 1.0)
    with simulator(), pytest.raises(RuntimeError, match=r"joint_0 .*narrow the description"):
        TrossenDriver(wide, ADDRESS)


def test_a_target_of_the_wrong_size_is_refused(running: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="refused a target"):
        running.driver.write(JointTarget(np.zeros(4), 0.02), time.monotonic())


def test_without_the_library_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['trossen_arm'] = None\n"
        "from grape_policy.arm.trossen import TrossenDriver\n"
        "from grape_policy.arm.description import load_description\n"
        "TrossenDriver(load_description('wxai'), '127.0.0.1')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ".venv/bin/pip install trossen-arm" in result.stderr
