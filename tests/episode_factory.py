"""Synthetic episodes for tests: every array is different at every step, so that a mix-up shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from grape_episodes import contract
from grape_episodes.manifest import new_episode_id, start_manifest
from grape_episodes.types import Episode, EpisodeManifest

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")


def make_manifest(**changes: Any) -> EpisodeManifest:
    fields: dict[str, Any] = {
        "episode_id": new_episode_id("carrot_on_plate/train/0042"),
        "task": "carrot_on_plate",
        "instruction": "put the carrot on the plate",
        "initial_state_id": "carrot_on_plate/train/0042",
        "policy_version": "test-0123abcd",
        "temperature": 0.5,
        "seed": 7,
        "source": "env",
    }
    results = {key: changes.pop(key) for key in list(changes) if key not in fields}
    return dataclasses.replace(start_manifest(**{**fields, **changes}), **results)


def make_episode(steps: int = 4, seed: int = 0, *, depth: bool = True, **manifest: Any) -> Episode:
    rng = np.random.default_rng(seed)
    camera, count = contract.camera(), steps + 1
    shape = (count, camera.height, camera.width)
    smooth = np.linspace(0, 100, shape[2]).astype(np.uint8)[None, None, :, None]
    steps_seen = np.arange(count, dtype=np.uint8)[:, None, None, None]
    noise = rng.integers(0, 8, (*shape, 3), dtype=np.uint8)
    quaternions = rng.normal(size=(count, 4))
    return Episode(
        manifest=make_manifest(**{"outcome": "success", "success": True, "grasped": True, **manifest}),
        images=smooth + steps_seen + noise,
        depths=rng.integers(300, 1500, shape, dtype=np.uint16) if depth else None,
        stamps_ns=1_770_000_000_123_456_789 + 200_000_000 * np.arange(count, dtype=np.int64),
        actions=rng.normal(scale=0.02, size=(steps, 7)),
        token_ids=rng.integers(31744, 32000, (steps, 7)),
        log_probabilities=-rng.random((steps, 7)).astype(np.float32),
        policy_versions=tuple("test-0123abcd" for _ in range(steps)),
        joint_names=JOINTS,
        joint_positions=rng.normal(size=(count, 7)),
        end_effector_positions=rng.normal(size=(count, 3)),
        end_effector_quaternions=quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True),
        camera=camera,
    )


ARRAYS = (
    "images",
    "depths",
    "stamps_ns",
    "actions",
    "token_ids",
    "log_probabilities",
    "joint_positions",
    "end_effector_positions",
    "end_effector_quaternions",
)
