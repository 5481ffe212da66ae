"""Checks that an episode's arrays fit together and hold only finite numbers."""

from __future__ import annotations

import numpy as np

from grape_episodes.types import Episode, EpisodeError

TOKENS = 7  # one token and one log-probability per action dimension
_REMEDY = "Leave this episode out, and report the program that wrote it."


def check_episode(episode: Episode, where: object) -> None:
    """Refuse an episode whose arrays have a wrong shape or type, are not finite, or run back in time.

    Raises:
        EpisodeError: Names the array.
    """
    _check_arrays(episode, where)
    _check_values(episode, where)


def _check_arrays(episode: Episode, where: object) -> None:
    count, joints = episode.steps + 1, len(episode.joint_names)
    size = (episode.camera.height, episode.camera.width)
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((count, *size, 3), np.uint8),
        "stamps_ns": ((count,), np.int64),
        "actions": ((count - 1, TOKENS), np.float64),
        "token_ids": ((count - 1, TOKENS), np.int64),
        "log_probabilities": ((count - 1, TOKENS), np.float32),
        "joint_positions": ((count, joints), np.float64),
        "end_effector_positions": ((count, 3), np.float64),
        "end_effector_quaternions": ((count, 4), np.float64),
    }
    if episode.depths is not None:
        expected["depths"] = ((count, *size), np.uint16)
    for name, (shape, dtype) in expected.items():
        array = getattr(episode, name)
        if array.shape != shape or array.dtype != dtype:
            found = f"{array.dtype} {array.shape}"
            what = f"{name} is {found}, expected {np.dtype(dtype)} {shape}"
            raise EpisodeError(what, where, _REMEDY)
    if len(episode.policy_versions) != count - 1:
        what = f"{len(episode.policy_versions)} policy versions for {count - 1} actions"
        raise EpisodeError(what, where, _REMEDY)


def _check_values(episode: Episode, where: object) -> None:
    names = ("actions", "log_probabilities", "joint_positions")
    for name in (*names, "end_effector_positions", "end_effector_quaternions"):
        if not np.isfinite(getattr(episode, name)).all():
            raise EpisodeError(f"{name} holds a number that is not finite", where, _REMEDY)
    if episode.steps == 0:
        raise EpisodeError("The episode has no actions", where, "Leave this episode out.")
    if (np.diff(episode.stamps_ns) <= 0).any():
        raise EpisodeError("Image stamps do not increase", where, _REMEDY)
    if (episode.token_ids < 0).any():
        raise EpisodeError("A token id is negative", where, _REMEDY)
    if (episode.log_probabilities > 1e-4).any():  # rounding may give a hair above zero
        raise EpisodeError("A log-probability is above zero", where, _REMEDY)
