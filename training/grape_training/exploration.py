"""Exploration beyond the policy's own samples: ways that no demonstration showed, to be preferred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from grape_policy.vla.actions import ActionTokenizer
from grape_policy.vla.config import ACTION_DIMENSIONS

if TYPE_CHECKING:
    from grape_policy.vla.inference import VlaPolicy
    from numpy.typing import NDArray

CLOSED_ACTIONS = 2  # so many actions in a row with the gripper closed, and it holds what it can hold
UP, GRIPPER = 2, ACTION_DIMENSIONS - 1


class Lift:
    """Up after the grasp: once in an episode, for 1 to ``most`` actions, a number drawn by ``seed``.

    Sampling at a temperature shakes each action by itself, which averages out: a policy whose
    demonstrations had nothing in the way hardly ever comes across a way over it. The same action several
    times in a row does. Only the height is forced, so that the rest of the action stays likely enough to be
    learnt from; the policy's own gripper commands say when. What ran is what is recorded: the tokens of the
    lift, with the log-probabilities that the policy gives them.
    """

    def __init__(self, policy: VlaPolicy, most: int, seed: int) -> None:
        # The middle of the highest bin: its upper edge has a token of its own, which decodes to the same
        # height but which training with soft targets never shows, so that it is hardly learnt.
        centre = ActionTokenizer(policy.checkpoint.config).centres[-1]
        highest = policy.statistics.unnormalise(np.full(ACTION_DIMENSIONS, centre))
        self._tokens = {UP: policy.token_ids(highest)[UP]}
        self._left = int(np.random.default_rng(seed).integers(1, most + 1))
        self._closed = 0

    def forced(self) -> Mapping[int, int]:
        """Return the tokens by action dimension that the next action has to have; none outside the lift."""
        if self._closed < CLOSED_ACTIONS or not self._left:
            return {}
        self._left -= 1
        return self._tokens

    def ran(self, action: NDArray[np.float64]) -> None:
        """Take note of an action (7,) of the episode."""
        self._closed = self._closed + 1 if action[GRIPPER] < 0.5 else 0
