"""What can be chosen about TPO and its baselines; `grape train tpo` and the loop have these defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

TRAJECTORY, STEP, IMITATION = "trajectory", "step", "imitation"

# Method: what one loss term covers, and what it is.
METHODS: dict[str, tuple[str, str]] = {
    "tpo": (TRAJECTORY, "whole trajectories, on the table of pairs"),
    "random-pairs": (TRAJECTORY, "TPO on a random success with a random failure of the same initial state"),
    "group": (TRAJECTORY, "TPO on all rollouts of an initial state, weighted by difference of reward"),
    "dpo": (STEP, "step-wise DPO on the table of pairs, step t with step t; best with beta 1, anchor 0"),
    "rejection-sampling": (IMITATION, "imitate the rollouts that the scores call successful"),
    "sft": (IMITATION, "imitate the episodes whose manifest says success, e.g. demonstrations"),
}
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Objective:
    """The loss of a preference with margin m: see ``tpo_losses`` for the families.

    ``beta``: sharpness. With ``length_normalised`` the sums over steps become means, which removes the
    preference for short trajectories. ``anchor`` adds ``-anchor * mean_t log pi(chosen)``: the known cure
    against both likelihoods collapsing. ``label_smoothing``: probability that a preference is the wrong way
    round, in [0, 0.5).
    """

    beta: float = 0.1
    length_normalised: bool = False
    anchor: float = 0.0
    loss: str = "sigmoid"
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class LoraOptions:
    """Rank, scale numerator (updates are scaled by ``alpha / rank``) and which linear layers get an adapter.

    ``targets`` is a regular expression on module names. The default takes every linear layer of the decoder's
    blocks and of the projector; the vision towers and ``lm_head`` stay as they are.
    """

    rank: int = 32
    alpha: int = 32
    targets: str = r"language_model\.model\..*_proj|projector\.fc[123]"


@dataclass(frozen=True)
class TpoOptions:
    """Everything that can be chosen about a run; the defaults are those of the study's TPO.

    ``pairs_per_step`` pairs (or groups, or imitated rollouts) are accumulated into one optimiser step;
    ``micro_batch`` steps of a trajectory share one backward pass (memory only, no effect beyond rounding);
    ``max_gradient_norm`` clips after scaling; the learning rate rises linearly over ``warmup`` steps.

    ``method``: one of ``METHODS``. ``stage_weighted``: weigh a step by how much its stage told the two
    rollouts apart (``tpo_sources.stage_weights``). ``skip_constant``: leave out action dimensions that always
    decode to the same value (``tpo_scorer.active_dimensions``). ``precision``: of the forward passes, one of
    ``PRECISIONS``. ``gradient_checkpointing``: recompute the decoder's activations, for large models.
    """

    objective: Objective = field(default_factory=partial(Objective, anchor=0.1))
    lora: LoraOptions = field(default_factory=LoraOptions)
    learning_rate: float = 4e-4
    epochs: int = 1
    pairs_per_step: int = 4
    micro_batch: int = 16
    max_gradient_norm: float = 1.0
    seed: int = 0
    method: str = "tpo"
    warmup: int = 0
    stage_weighted: bool = False
    skip_constant: bool = True
    precision: str = "float32"
    gradient_checkpointing: bool = False
