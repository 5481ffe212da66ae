"""Expert rollouts with what the simulator knows about them, for tests of perception and scores."""

from __future__ import annotations

from grape_training.truth import EarlyRelease, Rollout, other_object, roll_out

TASKS = ("carrot_on_plate", "eggplant_in_basket", "stack_cube", "spoon_on_towel")

__all__ = ["TASKS", "EarlyRelease", "Rollout", "other_object", "roll_out"]
