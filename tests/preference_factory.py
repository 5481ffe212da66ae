"""Hand-made tracks and scores, small enough to compute their costs by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from grape_preference.scoring import Score
from grape_preference.tracks import KeypointTracks

DOWN = (0.0, 0.7071067811865476, 0.0, 0.7071067811865476)  # xyzw: the gripper's x axis points straight down


def make_tracks(
    end_effector: Any, objects: dict[str, Any], extents: dict[str, Any] | None = None, **changes: Any
) -> KeypointTracks:
    """Tracks at 5 Hz, gripper open and pointing down; every object is a 2 cm cube unless ``extents`` says."""
    hand = np.asarray(end_effector, float)
    names, extents = tuple(objects), extents or {}
    fields: dict[str, Any] = {
        "names": names,
        "positions": np.stack([np.broadcast_to(np.asarray(objects[n], float), hand.shape) for n in names], 1),
        "confidence": np.ones((len(hand), len(names))),
        "extents": np.array([extents.get(name, (0.02, 0.02, 0.02)) for name in names]),
        "end_effector_positions": hand,
        "end_effector_quaternions": np.tile(DOWN, (len(hand), 1)),
        "gripper": np.ones(len(hand)),
        "times": 0.2 * np.arange(len(hand)),
        "obstacles": np.empty((0, 3)),
        "obstacles_gone": np.zeros(len(hand)),
    }
    return KeypointTracks(**{**fields, **changes})


def make_score(episode_id: str, r_self: float, r_ext: float, success: bool, **changes: Any) -> Score:
    """A score with verdict "ok" in one group; ``r_self`` is the mean of ten tokens."""
    score = Score(
        episode_id=episode_id,
        task="carrot_on_plate",
        initial_state_id="carrot_on_plate/train/0001",
        policy_version="test-0123abcd",
        outcome="success" if success else "failure",
        verdict="ok",
        message="",
        steps=10,
        collisions=0,
        r_self=10.0 * r_self,
        r_self_mean=r_self,
        r_ext=r_ext,
        i_success=float(success),
        stages=(),
        plan_sha256="",
        episode_sha256=f"sha-{episode_id}",
    )
    return dataclasses.replace(score, **changes)
