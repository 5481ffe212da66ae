"""What can be chosen about TPO; the defaults are those of `grape train tpo` and of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Objective:
    """The loss: ``beta``; mean instead of sum over steps; weight of the chosen trajectory's likelihood.

    ``anchor`` adds ``-anchor * mean_t log pi(chosen)``: the known cure against both likelihoods collapsing.
    With ``length_normalised`` the two sums become means, which removes the preference for short trajectories.
    """

    beta: float = 0.1
    length_normalised: bool = False
    anchor: float = 0.0


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
    """Everything that can be chosen about a TPO run.

    ``pairs_per_step`` pairs share one optimiser step; ``micro_batch`` steps of a trajectory share one
    backward pass (memory only, no effect beyond rounding); ``max_gradient_norm`` clips after scaling.
    """

    objective: Objective = field(default_factory=Objective)
    lora: LoraOptions = field(default_factory=LoraOptions)
    learning_rate: float = 2e-4
    epochs: int = 2
    pairs_per_step: int = 4
    micro_batch: int = 16
    max_gradient_norm: float = 1.0
    seed: int = 0
