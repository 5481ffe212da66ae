"""The arm's safety state: disarmed, armed, stopped or emergency stopped, with one reason; the first one wins.

The numbers are those of ``grape_msgs/msg/SafetyState``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """What the arm may do: it moves only while ``ARMED``."""

    DISARMED = 0
    ARMED = 1
    STOPPED = 2
    EMERGENCY_STOPPED = 3


class Reason(IntEnum):
    """Why the arm is not (or no longer) armed, or why an action was refused."""

    NONE = 0
    NOT_ARMED_YET = 1
    DISARMED_BY_REQUEST = 2
    STALE_COMMAND = 3
    INVALID_ACTION = 4
    WORKSPACE_LIMIT = 5
    JOINT_LIMIT = 6
    INVERSE_KINEMATICS = 7
    JOINT_STATES_STALE = 8
    EMERGENCY_STOP = 9
    IMAGE_STALE = 10
    IMAGE_FROZEN = 11
    HEARTBEAT_LOST = 12
    DRIVER_FAULT = 13
    KEEP_OUT = 14
    TABLE_CLEARANCE = 15
    SELF_CLEARANCE = 16
    FOLLOWING_ERROR = 17


class ActionRefused(ValueError):
    """An action that must not be executed; ``reason`` is for programs, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Status:
    """State, its one reason, and the reason in words with the remedy."""

    state: State
    reason: Reason
    message: str


_NOT_ARMED = Status(State.DISARMED, Reason.NOT_ARMED_YET, "disarmed since start; arm it with set_armed")
_ARMED = Status(State.ARMED, Reason.NONE, "armed: following actions")


class SafetySupervisor:
    """Owner of the safety state. Every change goes through its five methods; none of them moves anything."""

    def __init__(self) -> None:
        self._status = _NOT_ARMED

    @property
    def status(self) -> Status:
        """The present state and reason."""
        return self._status

    @property
    def armed(self) -> bool:
        """Whether the arm may move."""
        return self._status.state == State.ARMED

    def arm(self) -> Status:
        """Arm, unless the emergency stop is engaged; return the state afterwards."""
        if self._status.state != State.EMERGENCY_STOPPED:
            self._status = _ARMED
        return self._status

    def disarm(self) -> Status:
        """Disarm on request; a latched emergency stop stays as it is."""
        if self._status.state != State.EMERGENCY_STOPPED:
            message = "disarmed on request; arm it with set_armed"
            self._status = Status(State.DISARMED, Reason.DISARMED_BY_REQUEST, message)
        return self._status

    def stop(self, reason: Reason, message: str) -> Status:
        """Stop an armed arm. When it is not armed, the earlier reason stays: the first one wins."""
        if self.armed:
            self._status = Status(State.STOPPED, reason, f"{message}; arm again with set_armed")
        return self._status

    def emergency_stop(self) -> Status:
        """Latch the emergency stop from any state."""
        if self._status.state != State.EMERGENCY_STOPPED:
            message = "emergency stop engaged; clear it, then arm again"
            self._status = Status(State.EMERGENCY_STOPPED, Reason.EMERGENCY_STOP, message)
        return self._status

    def clear_emergency_stop(self) -> Status:
        """Release a latched emergency stop into the disarmed state; does nothing in other states."""
        if self._status.state == State.EMERGENCY_STOPPED:
            message = "emergency stop cleared; arm it with set_armed"
            self._status = Status(State.DISARMED, Reason.EMERGENCY_STOP, message)
        return self._status
