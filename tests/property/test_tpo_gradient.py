"""The deferred gradient is the naive one, whatever the shapes; the loss is the one of the paper."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from grape_training.tpo_gradient import (
    Preference,
    Trajectory,
    add_gradient,
    add_imitation_gradient,
    add_pair_gradient,
    add_step_gradient,
)
from grape_training.tpo_losses import LOSSES, preference_loss
from grape_training.tpo_options import Objective
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

TOKENS, VOCABULARY = 7, 11


class TinyPolicy(nn.Module):
    """Observation (B, width) -> log-probabilities of TOKENS independent tokens, summed to (B,)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden, eps=0.1),  # else two near-equal channels blow rounding up in float32
            nn.Linear(hidden, TOKENS * VOCABULARY),
        )

    def forward(self, observations: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.layers(observations).view(-1, TOKENS, VOCABULARY)
        return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(-1)


def trajectory(policy: nn.Module, steps: int, width: int, generator: torch.Generator) -> Trajectory:
    observations = torch.randn(steps, width, generator=generator)
    tokens = torch.randint(VOCABULARY, (steps, TOKENS), generator=generator)
    reference = -16 + torch.randn(steps, generator=generator, dtype=torch.float64)
    return Trajectory(
        steps, lambda start, stop: policy(observations[start:stop], tokens[start:stop]), reference.numpy()
    )


def family(objective: Objective, margin: torch.Tensor) -> torch.Tensor:
    """The loss families as their papers write them, for automatic differentiation."""

    def loss(m: torch.Tensor) -> torch.Tensor:
        if objective.loss == "ipo":
            return (m - 1 / (2 * objective.beta)) ** 2
        if objective.loss == "hinge":
            return torch.relu(1 - objective.beta * m)
        return -torch.nn.functional.logsigmoid(objective.beta * m)

    smoothing = objective.label_smoothing
    return (1 - smoothing) * loss(margin) + smoothing * loss(-margin)


def naive_group_loss(sides, preferences, objective: Objective) -> torch.Tensor:
    """The loss of a group with one graph over all whole trajectories."""
    new = [side.log_probabilities(0, side.steps).double() for side in sides]
    weights = [torch.from_numpy(side.step_weights) for side in sides]
    sums = [
        (w * (n - torch.from_numpy(side.reference))).sum() / (w.sum() if objective.length_normalised else 1)
        for n, w, side in zip(new, weights, sides, strict=True)
    ]
    means = [(w * n).sum() / w.sum() for n, w in zip(new, weights, strict=True)]
    return sum(
        p.weight * (family(objective, sums[p.better] - sums[p.worse]) - objective.anchor * means[p.better])
        for p in preferences
    )


def naive_loss(chosen: Trajectory, rejected: Trajectory, objective: Objective) -> torch.Tensor:
    """The loss written down as in the paper, with one graph over both whole trajectories."""
    return naive_group_loss((chosen, rejected), (Preference(0, 1),), objective)


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


OBJECTIVES = st.builds(
    Objective,
    beta=st.floats(0.001, 0.5),
    length_normalised=st.booleans(),
    anchor=st.sampled_from([0.0, 0.05, 1.0]),
    loss=st.sampled_from(sorted(LOSSES)),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.4]),
)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    width=st.integers(1, 12),
    hidden=st.integers(2, 24),
    micro_batch=st.integers(1, 17),
    objective=OBJECTIVES,
    pairs=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_gradient_equals_full_graph(steps, width, hidden, micro_batch, objective, pairs, seed):
    torch.manual_seed(seed)
    policy = TinyPolicy(width, hidden)
    parameters = list(policy.parameters())
    generator = torch.Generator().manual_seed(seed)
    data = [[trajectory(policy, n, width, generator) for n in steps] for _ in range(pairs)]
    found = [
        add_pair_gradient(parameters, *pair, objective, micro_batch=micro_batch, weight=1 / pairs)
        for pair in data
    ]
    if objective.loss == "ipo":  # near its minimum the slope is a difference of equal float32 numbers
        slopes = preference_loss(objective, np.array([values.margin for values in found]))[1]
        assume(np.abs(slopes).min() > 0.1 / objective.beta)
    losses = [values.loss for values in found]
    ours = torch.cat([p.grad.flatten() for p in parameters]).double()
    loss = torch.stack([naive_loss(*pair, objective) for pair in data]).mean()
    naive = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()
    assert np.mean(losses) == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    # A saturated sigmoid leaves a gradient of pure rounding; it only has to be as small as the naive one.
    assert (ours - naive).norm() <= 1e-5 * naive.norm() + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    micro_batch=st.integers(1, 9),
    objective=OBJECTIVES,
    weighted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_gradient_of_a_group_equals_full_graph(steps, micro_batch, objective, weighted, seed):
    """All rollouts of a state, any preferences among them, steps weighted or not."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    policy = TinyPolicy(5, 12)
    parameters = list(policy.parameters())
    sides = [trajectory(policy, n, 5, generator) for n in steps]
    if weighted:
        sides = [replace(side, weights=rng.uniform(0.2, 3.0, side.steps)) for side in sides]
    rewards = rng.normal(size=len(sides))
    every = ((i, j) for i in range(len(sides)) for j in range(len(sides)))
    preferences = [Preference(i, j, rewards[i] - rewards[j]) for i, j in every if rewards[i] > rewards[j]]
    value = add_gradient(parameters, sides, preferences, objective, micro_batch=micro_batch)
    loss = naive_group_loss(sides, preferences, objective)
    ours, naive = flat(p.grad for p in parameters), flat(torch.autograd.grad(loss, parameters))
    assert value.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    assert (ours - naive).norm() <= 1e-5 * naive.norm() + 1e-6


@settings(max_examples=30, deadline=None)
@given(
    steps=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    micro_batch=st.integers(1, 9),
    objective=OBJECTIVES,
    seed=st.integers(0, 2**16),
)
def test_gradient_of_the_baselines_equals_full_graph(steps, micro_batch, objective, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    policy = TinyPolicy(5, 12)
    parameters = list(policy.parameters())
    chosen, rejected = (trajectory(policy, n, 5, generator) for n in steps)
    value = add_step_gradient(parameters, chosen, rejected, objective, micro_batch=micro_batch)
    ours = flat(p.grad for p in parameters)
    count = min(steps)
    log_w, log_l = (side.log_probabilities(0, count).double() for side in (chosen, rejected))
    ratio_w, ratio_l = (
        log - torch.from_numpy(side.reference[:count]) for log, side in ((log_w, chosen), (log_l, rejected))
    )
    loss = (family(objective, ratio_w - ratio_l) - objective.anchor * log_w).mean()
    naive = flat(torch.autograd.grad(loss, parameters))
    assert value.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    assert (ours - naive).norm() <= 1e-5 * naive.norm() + 1e-6

    policy.zero_grad()
    value = add_imitation_gradient(parameters, chosen, micro_batch=micro_batch, weight=0.5)
    loss = -chosen.log_probabilities(0, chosen.steps).mean()
    naive = 0.5 * flat(torch.autograd.grad(loss, parameters))
    assert value.loss == pytest.approx(loss.item(), rel=1e-5)
    assert (flat(p.grad for p in parameters) - naive).norm() <= 1e-5 * naive.norm()


@pytest.mark.parametrize(
    ("loss", "value", "slope"),
    [
        # beta 0.5, margin 2: beta m = 1. Smoothing 0.25 mixes f(2) and f(-2).
        ("sigmoid", 0.75 * math.log1p(math.exp(-1)) + 0.25 * math.log1p(math.e), None),
        ("ipo", 0.75 * 1.0 + 0.25 * 9.0, 0.75 * 2.0 - 0.25 * -6.0),
        ("hinge", 0.75 * 0.0 + 0.25 * 2.0, 0.25 * 0.5),
    ],
)
def test_losses_worked_out_by_hand(loss, value, slope):
    found = preference_loss(Objective(0.5, loss=loss, label_smoothing=0.25), np.array([2.0]))
    if slope is None:  # -beta [0.75 sigmoid(-1) - 0.25 sigmoid(1)]
        slope = -0.5 * (0.75 / (1 + math.e) - 0.25 / (1 + math.exp(-1)))
    assert (found[0][0], found[1][0]) == pytest.approx((value, slope), rel=1e-12)


def test_loss_of_a_pair_worked_out_by_hand():
    """Log pi: chosen (-1, -2), rejected (-3,); references (-1.5, -2.5), (-2,): S = 1 and -1, margin 2."""
    scale = nn.Parameter(torch.tensor(1.0))
    chosen = Trajectory(2, lambda a, b: torch.tensor([-1.0, -2.0])[a:b] * scale, np.array([-1.5, -2.5]))
    rejected = Trajectory(1, lambda a, b: torch.tensor([-3.0])[a:b] * scale, np.array([-2.0]))
    values = add_pair_gradient([scale], chosen, rejected, Objective(beta=0.5), micro_batch=1)
    assert values.margin == 2.0
    assert values.loss == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-12)
    # dL/dscale = -beta * sigmoid(-1) * (dS_w - dS_l) with dS_w = -3 and dS_l = -3
    assert scale.grad.item() == pytest.approx(0.0, abs=1e-7)
    scale.grad = None
    values = add_pair_gradient([scale], chosen, rejected, Objective(0.5, True, 0.1), micro_batch=2)
    assert values.margin == 1.5  # 0.5 - (-1)
    assert values.loss == pytest.approx(math.log(1 + math.exp(-0.75)) + 0.1 * 1.5, rel=1e-6)
    coefficient = -0.5 / (1 + math.exp(0.75))
    assert scale.grad.item() == pytest.approx(coefficient * (-1.5 + 3.0) + 0.1 * 1.5, rel=1e-6)


def test_identical_policies_have_margin_zero_and_a_pull_apart():
    torch.manual_seed(0)
    policy = TinyPolicy(4, 8)
    generator = torch.Generator().manual_seed(0)
    sides = []
    for steps in (9, 5):
        raw = trajectory(policy, steps, 4, generator)
        with torch.no_grad():
            reference = [
                raw.log_probabilities(a, min(a + 4, steps)).double().numpy() for a in range(0, steps, 4)
            ]
        sides.append(Trajectory(steps, raw.log_probabilities, np.concatenate(reference)))
    values = add_pair_gradient(list(policy.parameters()), *sides, Objective(), micro_batch=4)
    assert values.margin == 0.0
    assert values.loss == pytest.approx(math.log(2), rel=1e-12)
    assert values.kl == 0.0
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())
