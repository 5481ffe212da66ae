"""The exact gradient of trajectory-wise preference optimisation at constant memory, and of its baselines.

GRAPE (arXiv 2411.19309, eq. 5-6): with S(z) = sum_t w_t [log pi(a_t|o_t,q) - log pi_ref(a_t|o_t,q)] over the
*whole* trajectory z (w_t = 1 in the paper), the loss of a pair is ``f(S(chosen) - S(rejected))`` with
f(m) = -log sigmoid(beta m) or another of ``tpo_losses``.

Its derivative reaches the parameters through one scalar per trajectory, so the trajectories can be
back-propagated in micro-batches of steps with weight 1 (one pass, no recomputation), and the summed gradients
are scaled once the margins are known. Memory does not grow with the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from grape_training.tpo_losses import preference_loss
from grape_training.tpo_options import Objective

StepLogProbabilities = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """A rollout as the loss sees it.

    ``log_probabilities(start, stop)`` returns the differentiable (stop - start,) log-probabilities of the
    recorded actions under the policy; ``reference`` (T,) float64 holds those under the reference policy;
    ``weights`` (T,) weigh the steps (None: all 1).
    """

    steps: int
    log_probabilities: StepLogProbabilities
    reference: np.ndarray
    weights: np.ndarray | None = None

    @property
    def step_weights(self) -> np.ndarray:
        """The weights (T,) float64."""
        return np.ones(self.steps) if self.weights is None else self.weights


class Preference(NamedTuple):
    """One preference among trajectories: their indices, and its weight in the loss."""

    better: int
    worse: int
    weight: float = 1.0


@dataclass(frozen=True)
class PairLoss:
    """Values of a pair or group: loss, margin, mean log-probability per step of both sides, KL estimate.

    ``kl`` (nats per step) is the mean over the recorded actions of ``r - 1 - log r`` with r = pi / pi_ref
    (Schulman's k3 estimator on these very actions). ``accuracy``: weighted share of preferences in the right
    order. What does not exist for imitation is None.
    """

    loss: float
    chosen_log_probability: float
    kl: float
    margin: float | None = None
    rejected_log_probability: float | None = None
    accuracy: float | None = None


def micro_batches(steps: int, size: int) -> list[tuple[int, int]]:
    """Return the (start, stop) ranges that cover ``steps``: policy and reference must use the same ones."""
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


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
    sides, preferences = (chosen, rejected), (Preference(0, 1),)
    return add_gradient(parameters, sides, preferences, objective, micro_batch=micro_batch, weight=weight)


def add_gradient(
    parameters: Sequence[torch.nn.Parameter],
    trajectories: Sequence[Trajectory],
    preferences: Sequence[Preference],
    objective: Objective,
    *,
    micro_batch: int,
    weight: float = 1.0,
) -> PairLoss:
    """Add ``weight`` times the exact gradient of a group to ``parameters[i].grad`` and return its values.

    The loss is ``sum_p weight_p [f(S(better_p) - S(worse_p)) - anchor * A(better_p)]`` with A the weighted
    mean of log pi over the steps. Peak memory: the activations of one micro-batch and one gradient buffer
    per trajectory.
    """
    summed = [_summed_gradient(parameters, each, micro_batch) for each in trajectories]
    new = [values for values, _ in summed]
    totals = np.array([each.step_weights.sum() for each in trajectories])
    divisors = totals if objective.length_normalised else np.ones_like(totals)
    ratios = [values - each.reference for values, each in zip(new, trajectories, strict=True)]
    weighted = [(each.step_weights * r).sum() for each, r in zip(trajectories, ratios, strict=True)]
    sums = np.array(weighted) / divisors
    better, worse = (np.array([p[side] for p in preferences], np.int64) for side in (0, 1))
    shares = np.array([p.weight for p in preferences])
    margins = sums[better] - sums[worse]
    losses, slopes = preference_loss(objective, margins)
    scales = np.zeros(len(trajectories))
    np.add.at(scales, better, shares * slopes / divisors[better])
    np.add.at(scales, worse, -shares * slopes / divisors[worse])
    np.add.at(scales, better, -shares * objective.anchor / totals[better])
    for (_, buffers), scale in zip(summed, scales, strict=True):
        _accumulate(parameters, buffers, float(weight * scale))
    means = np.array([v @ each.step_weights for v, each in zip(new, trajectories, strict=True)]) / totals
    plain = np.array([values.mean() for values in new])
    of_weights = shares / shares.sum()
    return PairLoss(
        loss=float(shares @ (losses - objective.anchor * means[better])),
        margin=float(of_weights @ margins),
        chosen_log_probability=float(of_weights @ plain[better]),
        rejected_log_probability=float(of_weights @ plain[worse]),
        kl=_kl(np.concatenate(ratios)),
        accuracy=float(of_weights @ (margins > 0)),
    )


def add_step_gradient(
    parameters: Sequence[torch.nn.Parameter],
    chosen: Trajectory,
    rejected: Trajectory,
    objective: Objective,
    *,
    micro_batch: int,
    weight: float = 1.0,
) -> PairLoss:
    """Add the gradient of step-wise DPO, the baseline: ``mean_t f(r_w,t - r_l,t)`` with the log ratios r.

    Step t of the chosen trajectory is compared with step t of the rejected one, up to the shorter's end.
    """
    count = min(chosen.steps, rejected.steps)
    found: list[tuple[np.ndarray, ...]] = []
    for start, stop in micro_batches(count, micro_batch):
        new_w, new_l = (side.log_probabilities(start, stop) for side in (chosen, rejected))
        values = [_numpy(new) for new in (new_w, new_l)]
        ratios = [v - side.reference[start:stop] for v, side in zip(values, (chosen, rejected), strict=True)]
        losses, slopes = preference_loss(objective, ratios[0] - ratios[1])
        slope = torch.from_numpy(slopes).to(new_w)
        surrogate = (slope * (new_w - new_l) - objective.anchor * new_w).sum()
        _accumulate(parameters, torch.autograd.grad(surrogate, parameters), weight / count)
        found.append((losses, *values, *ratios))
    losses, log_w, log_l, ratio_w, ratio_l = (np.concatenate(part) for part in zip(*found, strict=True))
    margins = ratio_w - ratio_l
    return PairLoss(
        loss=float(np.mean(losses - objective.anchor * log_w)),
        margin=float(margins.mean()),
        chosen_log_probability=float(log_w.mean()),
        rejected_log_probability=float(log_l.mean()),
        kl=_kl(np.concatenate([ratio_w, ratio_l])),
        accuracy=float(np.mean(margins > 0)),
    )


def add_imitation_gradient(
    parameters: Sequence[torch.nn.Parameter],
    trajectory: Trajectory,
    *,
    micro_batch: int,
    weight: float = 1.0,
) -> PairLoss:
    """Add the gradient of ``-mean_t log pi(a_t|o_t,q)``: SFT, also on one's own successful rollouts."""
    values, buffers = _summed_gradient(parameters, trajectory, micro_batch)
    _accumulate(parameters, buffers, -weight / trajectory.steps)
    mean = float(values.mean())
    return PairLoss(loss=-mean, chosen_log_probability=mean, kl=_kl(values - trajectory.reference))


def _summed_gradient(
    parameters: Sequence[torch.nn.Parameter], trajectory: Trajectory, micro_batch: int
) -> tuple[np.ndarray, list[Tensor]]:
    """Return per-step log-probabilities (T,) float64 and the gradient of their weighted sum."""
    values = []
    buffers = [torch.zeros_like(parameter) for parameter in parameters]
    for start, stop in micro_batches(trajectory.steps, micro_batch):
        steps = trajectory.log_probabilities(start, stop)
        values.append(_numpy(steps))
        if trajectory.weights is not None:
            steps = steps * torch.from_numpy(trajectory.weights[start:stop]).to(steps)
        for buffer, gradient in zip(buffers, torch.autograd.grad(steps.sum(), parameters), strict=True):
            buffer.add_(gradient)
    return np.concatenate(values), buffers


def _accumulate(parameters: Sequence[torch.nn.Parameter], gradients: Sequence[Tensor], scale: float) -> None:
    """Add ``scale`` times ``gradients`` to the parameters' own."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient * scale
        else:
            parameter.grad.add_(gradient, alpha=scale)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def _kl(ratios: np.ndarray) -> float:
    return float(np.mean(np.expm1(np.minimum(ratios, 50.0)) - ratios))
