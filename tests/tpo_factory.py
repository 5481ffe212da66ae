"""Pairs of rollouts of a tiny random policy on random images, and a run of the trainer on them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from grape_policy.vla.checkpoint import load_checkpoint
from grape_policy.vla.inference import VlaPolicy
from grape_training.tpo import TpoResult, train_tpo
from grape_training.tpo_data import Comparison, Rollout, RolloutPair
from grape_training.tpo_options import LoraOptions, Objective, TpoOptions

INSTRUCTION = "put the carrot on the plate"
OPTIONS = TpoOptions(
    objective=Objective(beta=0.2),
    lora=LoraOptions(rank=4, alpha=8),
    learning_rate=3e-3,
    epochs=2,
    pairs_per_step=2,
    micro_batch=4,
)


def random_rollout(policy: VlaPolicy, name: str, steps: int, seed: int) -> Rollout:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    images = rng.integers(0, 255, (steps, 32, 32, 3), dtype=np.uint8)
    batch = policy.act(images, [INSTRUCTION] * steps, 1.0, generator)
    return Rollout(name, images, tuple(policy.prompt_ids([INSTRUCTION])[0]), batch.token_ids)


def random_pairs(checkpoint: Path, count: int = 3) -> list[RolloutPair]:
    policy = VlaPolicy.from_checkpoint(checkpoint)
    return [
        RolloutPair(
            random_rollout(policy, f"w{i}", 4 + i, 2 * i), random_rollout(policy, f"l{i}", 7 - i, 2 * i + 1)
        )
        for i in range(count)
    ]


def train(checkpoint: Path, data: list[RolloutPair] | list[Comparison], output: Path, **changes) -> TpoResult:
    loaded = load_checkpoint(checkpoint)
    active = changes.pop("active", None)
    return train_tpo(
        loaded.model,
        loaded.preprocessor,
        data,
        output,
        replace(OPTIONS, **changes),
        checkpoint=checkpoint,
        model_hash=loaded.version,
        active=active,
        progress=False,
    )


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":  # one process of several, or one that will be killed: folder, epochs
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    train(folder / "tiny", random_pairs(folder / "tiny"), Path(sys.argv[2]), epochs=int(sys.argv[3]))
