"""The one table of why an episode did not run to its end, or was not kept; names are for programs."""

from __future__ import annotations

from enum import StrEnum


class StopReason(StrEnum):
    """Empty for an episode that ended with success or at its step limit.

    The arm's own stops have the names of ``grape_msgs/msg/SafetyState``, so that one table explains them all.
    """

    NONE = ""
    # The arm stopped, or would not move.
    NOT_ARMED_YET = "NOT_ARMED_YET"
    DISARMED_BY_REQUEST = "DISARMED_BY_REQUEST"
    STALE_COMMAND = "STALE_COMMAND"
    INVALID_ACTION = "INVALID_ACTION"
    WORKSPACE_LIMIT = "WORKSPACE_LIMIT"
    JOINT_LIMIT = "JOINT_LIMIT"
    INVERSE_KINEMATICS = "INVERSE_KINEMATICS"
    JOINT_STATES_STALE = "JOINT_STATES_STALE"
    EMERGENCY_STOP = "EMERGENCY_STOP"
    IMAGE_STALE = "IMAGE_STALE"
    IMAGE_FROZEN = "IMAGE_FROZEN"
    HEARTBEAT_LOST = "HEARTBEAT_LOST"
    DRIVER_FAULT = "DRIVER_FAULT"
    KEEP_OUT = "KEEP_OUT"
    TABLE_CLEARANCE = "TABLE_CLEARANCE"
    SELF_CLEARANCE = "SELF_CLEARANCE"
    FOLLOWING_ERROR = "FOLLOWING_ERROR"
    # The episode manager gave up.
    CANCELLED = "CANCELLED"
    POLICY_SILENT = "POLICY_SILENT"
    SERVICE_FAILED = "SERVICE_FAILED"
    RECORDING_FAILED = "RECORDING_FAILED"
    CUT_OFF = "CUT_OFF"
    # A collection did not begin, or did not keep, the episode.
    RESET_FAILED = "RESET_FAILED"
    INITIAL_STATE = "INITIAL_STATE"
    TOO_SHORT = "TOO_SHORT"
    INCONSISTENT = "INCONSISTENT"
    INVALID = "INVALID"
    DUPLICATE = "DUPLICATE"


MEANINGS = {
    StopReason.NOT_ARMED_YET: "the arm was not armed since its start",
    StopReason.DISARMED_BY_REQUEST: "somebody disarmed the arm",
    StopReason.STALE_COMMAND: "the policy's actions stopped coming, or came from images too old to follow",
    StopReason.INVALID_ACTION: "the policy sent an action that makes no sense",
    StopReason.WORKSPACE_LIMIT: "the end effector was at the wall of its workspace",
    StopReason.JOINT_LIMIT: "a joint was beyond its limit",
    StopReason.INVERSE_KINEMATICS: "no joint positions reach the pose",
    StopReason.JOINT_STATES_STALE: "the arm's driver stopped reporting joint states",
    StopReason.EMERGENCY_STOP: "somebody pressed the emergency stop",
    StopReason.IMAGE_STALE: "images stopped coming",
    StopReason.IMAGE_FROZEN: "the camera repeated itself while the arm moved",
    StopReason.HEARTBEAT_LOST: "the process of the policy, the camera, the arm or the recorder died or hung",
    StopReason.DRIVER_FAULT: "the arm's driver failed",
    StopReason.KEEP_OUT: "a link would have entered a keep-out box",
    StopReason.TABLE_CLEARANCE: "a link came too near to the table",
    StopReason.SELF_CLEARANCE: "links came too near to each other",
    StopReason.FOLLOWING_ERROR: "a joint did not follow: something held it, or its driver failed",
    StopReason.CANCELLED: "the episode was cancelled, or the episode manager shut down",
    StopReason.POLICY_SILENT: "the policy sent no action",
    StopReason.SERVICE_FAILED: "a node did not answer or refused; the words say which",
    StopReason.RECORDING_FAILED: "the recording could not be begun or closed, e.g. because the disk is full",
    StopReason.CUT_OFF: "power or the recorder was lost; recovered to the last whole message",
    StopReason.RESET_FAILED: "the scene could not be put back",
    StopReason.INITIAL_STATE: "the scene was not as the initial state demands",
    StopReason.TOO_SHORT: "fewer steps than an episode must have",
    StopReason.INCONSISTENT: "the episode is not the one that was asked for",
    StopReason.INVALID: "the recording cannot be read or does not fit together",
    StopReason.DUPLICATE: "the rollout has an episode already",
}

# Stops that say something about the policy: the episode counts. After others it is set aside and run again.
OF_THE_POLICY = frozenset(
    {
        StopReason.INVALID_ACTION,
        StopReason.WORKSPACE_LIMIT,
        StopReason.JOINT_LIMIT,
        StopReason.INVERSE_KINEMATICS,
        StopReason.KEEP_OUT,
        StopReason.TABLE_CLEARANCE,
        StopReason.SELF_CLEARANCE,
    }
)
