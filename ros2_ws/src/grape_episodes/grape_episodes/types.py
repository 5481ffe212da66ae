"""What an episode is: its manifest, its arrays and the one error raised when it cannot be trusted.

Units SI, angles in radians, quaternions xyzw, poses in the arm's base frame, stamps in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from grape_episodes.contract import Camera

OUTCOMES = ("success", "failure", "stopped", "aborted")
SOURCES = ("ros", "env")


class EpisodeError(RuntimeError):
    """An episode cannot be read, written or recovered.

    Args:
        what: What is wrong, in words.
        where: The file or folder (and field) it is wrong in.
        remedy: What the user can do about it.
    """

    def __init__(self, what: str, where: object, remedy: str) -> None:
        super().__init__(f"{what} ({where}). {remedy}")
        self.what, self.where, self.remedy = what, str(where), remedy


@dataclass(frozen=True)
class Extrinsics:
    """Pose of the camera's optical frame in the base frame: translation (m), quaternion xyzw."""

    translation: tuple[float, float, float]
    quaternion_xyzw: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class EpisodeManifest:
    """Everything about an episode but its streams; stored as ``episode.json``.

    The result fields (from ``outcome`` on) are filled in when the episode ends.
    """

    episode_id: str
    task: str
    instruction: str
    initial_state_id: str
    policy_version: str
    temperature: float
    seed: int
    source: str  # "ros" or "env"
    started: str  # ISO 8601, UTC
    extrinsics: Extrinsics
    contract_version: int
    outcome: str = "aborted"  # one of OUTCOMES
    success: bool = False
    grasped: bool = False
    collisions: int = 0
    reason: str = ""
    stop_reason: str = ""  # a StopReason by name; empty: success, or failure at the step limit
    steps: int = 0  # actions recorded
    files: dict[str, str] = field(default_factory=dict)  # file name -> sha256


@dataclass(frozen=True, eq=False)
class Episode:
    """One whole episode of T actions and T + 1 observations.

    Image t is the very image that action t was computed from; the last one is the final image. Joint
    positions (rad; ``gripper`` in m) and end-effector poses are those at the image stamps.
    """

    manifest: EpisodeManifest
    images: np.ndarray  # (T+1, H, W, 3) uint8 RGB
    depths: np.ndarray | None  # (T+1, H, W) uint16 mm
    stamps_ns: np.ndarray  # (T+1,) int64, strictly increasing
    actions: np.ndarray  # (T, 7) float64: dx dy dz m, rotation vector rad, gripper 0 closed .. 1 open
    token_ids: np.ndarray  # (T, 7) int64
    log_probabilities: np.ndarray  # (T, 7) float32, natural log at temperature 1
    policy_versions: tuple[str, ...]  # (T,)
    joint_names: tuple[str, ...]  # (J,)
    joint_positions: np.ndarray  # (T+1, J) float64
    end_effector_positions: np.ndarray  # (T+1, 3) float64 m
    end_effector_quaternions: np.ndarray  # (T+1, 4) float64 xyzw
    camera: Camera

    @property
    def steps(self) -> int:
        """Return the number T of actions."""
        return len(self.actions)
