"""Whether every motion of a run stayed within the arm's limits: commands seen outside, joints as recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from grape_episodes import contract, messages
from grape_policy.arm.description import RobotDescription, load_description
from mcap.exceptions import McapError
from mcap.reader import make_reader

if TYPE_CHECKING:
    from grape_training.bench_collection_monitor import Log

PAUSE = 0.15  # s without a command after which the arm starts anew from where it is
STAMP_SLACK = 0.010  # s between computing a command and stamping it, on a machine busy with other work
WINDOW, MEASURED_WINDOW = 0.05, 0.1  # s over which speeds are taken
SPEED_SLACK = 0.3  # rad/s that stamps as late as that may pretend
BRAKING = 0.35  # s after the arm left ARMED in which it may still be braking
STILL = 1e-3  # rad
OVERSHOOT = 1.3  # measured speed over the commanded limit: servos swing
WORKSPACE_SLACK = 0.03  # m of the measured end effector outside the box of the targets


def check_motion(root: Path, log: Log) -> dict[str, Any]:
    """Return the violations in words (at most 20) and the largest shares of each limit that were used."""
    robot = load_description("wx250s")
    violations: list[str] = []
    worst = {"velocity": 0.0, "acceleration": 0.0, "measured_velocity": 0.0}
    worst["measured_acceleration"] = 0.0
    for times, joints in _stretches([(command[1], command[2]) for command in log.commands]):
        _check_commands(times, joints, robot, worst, violations)
    violations += _moves_while_not_armed(log)
    recordings = {path.parent for path in root.rglob("*.mcap")}
    for folder in sorted(recordings):
        violations += _check_recorded(folder, robot, worst)
    shares = {name: round(value, 3) for name, value in worst.items()}
    return {
        "commands": len(log.commands),
        "recordings": len(recordings),
        "violations": violations[:20],
        "largest_share_of_limit": shares,
    }


def _check_commands(
    times: np.ndarray,
    joints: np.ndarray,
    robot: RobotDescription,
    worst: dict[str, float],
    violations: list[str],
) -> None:
    steps, seconds = np.abs(np.diff(joints, axis=0)), np.diff(times)[:, None] + STAMP_SLACK
    speed = float((steps / seconds / robot.velocity).max())
    outside = float(np.maximum(robot.lower - joints, joints - robot.upper).max())
    grid = np.arange(times[0], times[-1], WINDOW)
    acceleration = 0.0
    if len(grid) > 2:
        sampled = np.stack([np.interp(grid, times, column) for column in joints.T], axis=1)
        change = np.abs(np.diff(sampled, n=2, axis=0)) / WINDOW
        acceleration = float((np.maximum(change - SPEED_SLACK, 0.0) / WINDOW / robot.acceleration).max())
    worst["velocity"] = max(worst["velocity"], speed)
    worst["acceleration"] = max(worst["acceleration"], acceleration)
    if speed > 1.0:
        violations.append(f"a command at {speed:.2f} of the velocity limit")
    if acceleration > 1.0:
        violations.append(f"commands at {acceleration:.2f} of the acceleration limit")
    if outside > 1e-6:
        violations.append(f"a command {outside:.4f} rad beyond a joint limit")


def _moves_while_not_armed(log: Log) -> list[str]:
    """Return commands that change although the arm has not been armed for longer than it brakes."""
    changes = np.array([time for time, armed in log.states])
    states = [armed for _, armed in log.states]
    found = []
    for before, now in zip(log.commands, log.commands[1:], strict=False):
        if np.abs(np.subtract(now[2], before[2])).max() < STILL or now[1] - before[1] > PAUSE:
            continue
        recent = (changes > now[0] - BRAKING) & (changes <= now[0] + BRAKING)
        latest = int(np.searchsorted(changes, now[0])) - 1
        armed = any(states[i] for i in np.flatnonzero(recent)) or (latest >= 0 and states[latest])
        if not armed:
            found.append("a command moved the arm while it was not armed")
    return found


def _check_recorded(folder: Path, robot: RobotDescription, worst: dict[str, float]) -> list[str]:
    """Check every measured joint state and end-effector pose of one recording, kept or set aside."""
    found = []
    joints = _series(folder, "joint_states", lambda message: message.position[: len(robot.joints)])
    for times, values in _stretches(joints):
        grid = np.arange(times[0], times[-1], MEASURED_WINDOW)
        if len(grid) < 3:
            continue
        sampled = np.stack([np.interp(grid, times, column) for column in values.T], axis=1)
        speeds = np.diff(sampled, axis=0) / MEASURED_WINDOW
        speed = float((np.abs(speeds) / robot.velocity).max())
        change = float((np.abs(np.diff(speeds, axis=0)) / MEASURED_WINDOW / robot.acceleration).max())
        worst["measured_velocity"] = max(worst["measured_velocity"], speed)
        worst["measured_acceleration"] = max(worst["measured_acceleration"], change)
        if max(speed, change) > OVERSHOOT:
            found.append(f"{folder.name}: joints at {speed:.2f} and {change:.2f} of speed and acceleration")
    poses = _series(folder, "end_effector_pose", lambda m: _vector(m.pose.position))
    for _, positions in _stretches(poses):
        below, above = robot.workspace_lower - positions, positions - robot.workspace_upper
        outside = float(np.maximum(below, above).max())
        if outside > WORKSPACE_SLACK:
            found.append(f"{folder.name}: the end effector was {outside:.3f} m outside its workspace")
    return found


def _vector(point: Any) -> list[float]:
    return [point.x, point.y, point.z]


def _series(folder: Path, key: str, pick: Callable[[Any], Any]) -> list[tuple[float, Any]]:
    """Return (stamp s, values) of one recorded topic; nothing of a file that is not whole."""
    topic, found = contract.topics()[key], []
    for path in folder.glob("*.mcap"):
        try:
            with path.open("rb") as stream:
                for _, _, message in make_reader(stream).iter_messages(topics=[topic.name]):
                    stamp = messages.header_stamp_ns(message.data) * 1e-9
                    found.append((stamp, np.array(pick(messages.deserialize(message.data, topic.type)))))
        except McapError:  # cut off, and not even the recorder could save anything of it
            continue
    return found


def _stretches(series: list[tuple[float, Any]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield times (N,) s and values (N, D) of each stretch without a gap and with stamps that increase."""
    if len(series) < 2:
        return
    stamps, values = np.array([row[0] for row in series]), np.array([row[1] for row in series])
    cuts = np.flatnonzero((np.diff(stamps) > PAUSE) | (np.diff(stamps) <= 0)) + 1
    for times, rows in zip(np.split(stamps, cuts), np.split(values, cuts), strict=True):
        if len(times) > 1:
            yield times - times[0], rows
