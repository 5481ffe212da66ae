"""`grape bench tpo` on a tiny policy: its figures exist and mean what they say."""

from __future__ import annotations

import math

import torch
from grape_training.bench_tpo import gradient_error, speeds
from grape_training.bench_tpo_steps import deferred, naive, prepare, references
from vla_factory import tiny_checkpoint


def test_figures_of_a_tiny_policy(tmp_path):
    torch.set_num_threads(1)
    tiny_checkpoint(tmp_path)
    assert 0.0 < gradient_error(tmp_path) < 1e-5
    found = speeds(tmp_path, 20, 1)
    seconds = found["seconds_per_pair"]
    assert set(seconds) == {"ours", "reference_every_step", "windowed", "trl", "trl_precomputed"}
    assert found["speedup_vs_windowed"] == seconds["windowed"] / seconds["ours"] > 1.0
    assert found["speedup_vs_reference_every_step"] > 1.0


def test_both_ways_compute_one_loss_on_a_policy_that_has_moved(tmp_path):
    """The error is measured on a gradient that is not zero: the adapter's second factors are perturbed."""
    torch.set_num_threads(1)
    tiny_checkpoint(tmp_path)
    bench = prepare(tmp_path, 6)
    loss = naive(bench, references(bench))
    assert abs(loss.item() - math.log(2)) > 1e-5
    bench.adapted.zero_grad(set_to_none=True)
    deferred(bench, references(bench))
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in bench.parameters
    )
