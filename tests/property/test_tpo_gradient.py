"""The deferred gradient is the naive one, whatever the shapes; the loss is the one of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from grape_training.tpo_gradient import Trajectory, add_pair_gradient
from grape_training.tpo_options import Objective
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

TOKENS, VOCABULARY = 7, 11


class TinyPolicy(nn.Module):
    """Observation (B, width) -> log-probabilities of TOKENS independent tokens, summed to (B,)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, TOKENS * VOCABULARY)
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


def naive_loss(chosen: Trajectory, rejected: Trajectory, objective: Objective) -> torch.Tensor:
    """The loss written down as in the paper, with one graph over both whole trajectories."""
    log_w = chosen.log_probabilities(0, chosen.steps)
    log_l = rejected.log_probabilities(0, rejected.steps)
    ratio_w = log_w.double() - torch.from_numpy(chosen.reference)
    ratio_l = log_l.double() - torch.from_numpy(rejected.reference)
    reduce = torch.mean if objective.length_normalised else torch.sum
    margin = reduce(ratio_w) - reduce(ratio_l)
    return -torch.nn.functional.logsigmoid(objective.beta * margin) - objective.anchor * log_w.double().mean()


@settings(max_examples=40, deadline=None)
@given(
    steps=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    width=st.integers(1, 12),
    hidden=st.integers(2, 24),
    micro_batch=st.integers(1, 17),
    beta=st.floats(0.001, 0.5),
    anchor=st.sampled_from([0.0, 0.05, 1.0]),
    length_normalised=st.booleans(),
    pairs=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_gradient_equals_full_graph(
    steps, width, hidden, micro_batch, beta, anchor, length_normalised, pairs, seed
):
    torch.manual_seed(seed)
    policy = TinyPolicy(width, hidden)
    parameters = list(policy.parameters())
    generator = torch.Generator().manual_seed(seed)
    objective = Objective(beta, length_normalised, anchor)
    data = [[trajectory(policy, n, width, generator) for n in steps] for _ in range(pairs)]
    losses = [
        add_pair_gradient(parameters, *pair, objective, micro_batch=micro_batch, weight=1 / pairs).loss
        for pair in data
    ]
    ours = torch.cat([p.grad.flatten() for p in parameters]).double()
    loss = torch.stack([naive_loss(*pair, objective) for pair in data]).mean()
    naive = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()
    assert np.mean(losses) == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    # A saturated sigmoid leaves a gradient of pure rounding; it only has to be as small as the naive one.
    assert (ours - naive).norm() <= 1e-5 * naive.norm() + 1e-9


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
