"""The exact gradient of trajectory-wise preference optimisation at constant memory.

GRAPE (arXiv 2411.19309, eq. 5-6): with S(z) = sum_t [log pi(a_t|o_t,q) - log pi_ref(a_t|o_t,q)] over the
*whole* trajectory z, the loss of a pair is ``-log sigmoid(beta * (S(chosen) - S(rejected)))``.

Its derivative reaches the parameters through one scalar per pair, so the trajectories can be back-propagated
in micro-batches of steps with weight 1 (one pass, no recomputation), and the summed gradients are scaled once
the margin is known. Memory does not grow with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grape_training.tpo_options import Objective

StepLogProbabilities = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """One side of a pair.

    ``log_probabilities(start, stop)`` returns the differentiable (stop - start,) log-probabilities of the
    recorded actions under the policy; ``reference`` (T,) float64 holds those under the reference policy.
    """

    steps: int
    log_probabilities: StepLogProbabilities
    reference: np.ndarray


@dataclass(frozen=True)
class PairLoss:
    """Values of one pair: total loss, margin, mean log-probability per step of both sides, KL estimate.

    ``kl`` (nats per step) is the mean over the pair's recorded actions of ``r - 1 - log r`` with
    r = pi / pi_ref (Schulman's k3 estimator on the pair's own actions).
    """

    loss: float
    margin: float
    chosen_log_probability: float
    rejected_log_probability: float
    kl: float


def micro_batches(steps: int, size: int) -> list[tuple[int, int]]:
    """Return the (start, stop) ranges that cover ``steps``: policy and reference must use the same ones."""
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


def pair_loss_values(chosen: np.ndarray, rejected: np.ndarray, objective: Objective) -> tuple[float, float]:
    """Return the preference loss and the margin from per-step log ratios (T_w,), (T_l,) in float64."""
    reduce = np.mean if objective.length_normalised else np.sum
    margin = float(reduce(chosen) - reduce(rejected))
    return float(np.logaddexp(0.0, -objective.beta * margin)), margin


def add_pair_gradient(
    parameters: Sequence[torch.nn.Parameter],
    chosen: Trajectory,
    rejected: Trajectory,
    objective: Objective,
    *,
    micro_batch: int,
    weight: float = 1.0,
) -> PairLoss:
    """Add ``weight`` times the pair's exact gradient to ``parameters[i].grad`` and return the pair's values.

    Peak memory: the activations of one micro-batch and two gradient buffers.
    """
    new_w, gradient_w = _summed_gradient(parameters, chosen, micro_batch)
    new_l, gradient_l = _summed_gradient(parameters, rejected, micro_batch)
    ratio_w, ratio_l = new_w - chosen.reference, new_l - rejected.reference
    loss, margin = pair_loss_values(ratio_w, ratio_l, objective)
    coefficient = -objective.beta * _sigmoid(-objective.beta * margin)
    share_w, share_l = (chosen.steps, rejected.steps) if objective.length_normalised else (1, 1)
    scale_w = weight * (coefficient / share_w - objective.anchor / chosen.steps)
    scale_l = -weight * coefficient / share_l
    for parameter, of_chosen, of_rejected in zip(parameters, gradient_w, gradient_l, strict=True):
        total = of_chosen.mul_(scale_w).add_(of_rejected, alpha=scale_l)
        parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)
    ratios = np.concatenate([ratio_w, ratio_l])
    return PairLoss(
        loss=loss - objective.anchor * float(new_w.mean()),
        margin=margin,
        chosen_log_probability=float(new_w.mean()),
        rejected_log_probability=float(new_l.mean()),
        kl=float(np.mean(np.expm1(np.minimum(ratios, 50.0)) - ratios)),
    )


def _summed_gradient(
    parameters: Sequence[torch.nn.Parameter], trajectory: Trajectory, micro_batch: int
) -> tuple[np.ndarray, list[Tensor]]:
    """Return per-step log-probabilities (T,) float64 and the gradient of their sum."""
    values = []
    buffers = [torch.zeros_like(parameter) for parameter in parameters]
    for start, stop in micro_batches(trajectory.steps, micro_batch):
        steps = trajectory.log_probabilities(start, stop)
        values.append(steps.detach().double().numpy())
        for buffer, gradient in zip(buffers, torch.autograd.grad(steps.sum(), parameters), strict=True):
            buffer.add_(gradient)
    return np.concatenate(values), buffers


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
