"""An independent oracle: TRL's DPOTrainer on packed trajectories computes the same loss and gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint
from grape_training.bench_tpo_steps import OBJECTIVE, deferred, prepare, references
from grape_training.bench_tpo_trl import TrlPeer
from grape_training.lora import adapter_parameters
from grape_training.tpo_data import RolloutPair
from grape_training.tpo_options import LoraOptions
from vla_factory import tiny_checkpoint


@pytest.mark.parametrize("precomputed", [False, True])
def test_gradient_equals_that_of_trl(tmp_path, precomputed):
    torch.set_num_threads(1)
    tiny_checkpoint(tmp_path)
    lora = LoraOptions(rank=4, alpha=8)
    bench = prepare(tmp_path, 9, lora)
    long, short = bench.pair.chosen, bench.pair.rejected
    short = replace(short, images=short.images[:5], token_ids=short.token_ids[:5])
    bench = replace(bench, pair=RolloutPair(long, short))
    deferred(bench, references(bench))
    ours = adapter_parameters(bench.adapted)
    peer = TrlPeer(load_checkpoint(tmp_path), bench.pair, lora, OBJECTIVE.beta, precomputed)
    theirs = peer.parameters
    assert theirs.keys() == ours.keys()
    for name, parameter in theirs.items():
        parameter.data.copy_(ours[name].data)
    assert abs(peer.add_gradient() - math.log(2)) > 1e-3  # the policy has moved away from the reference
    a, b = (torch.cat([each[name].grad.flatten() for name in ours]).double() for each in (ours, theirs))
    assert (a - b).norm() <= 1e-5 * a.norm()
