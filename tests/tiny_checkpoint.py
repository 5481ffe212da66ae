"""A random VLA checkpoint small enough for tests: the real classes, untrained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from grape_policy.vla.checkpoint import save_checkpoint
from grape_policy.vla.config import small_config
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.tokenizer import train_tokenizer
from grape_sim.tasks import TASKS


def write_tiny_checkpoint(folder: Path, seed: int = 0, name: str = "tiny") -> str:
    """Write a checkpoint of about 0.3 M parameters; return its version."""
    tokenizer = train_tokenizer([text for task in TASKS.values() for text in task.instructions])
    config = small_config(
        len(tokenizer), name=name, image_size=32, tower_width=32, tower_blocks=1, hidden_size=64, layers=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OpenVla(config)
    low = [-0.03] * 3 + [-0.1] * 3 + [0.0]
    high = [0.03] * 3 + [0.1] * 3 + [1.0]

    statistics = ActionStatistics(np.array(low), np.array(high), np.array([True] * 6 + [False]))
    return save_checkpoint(
        folder, model, tokenizer, {"tiny": statistics}, Preprocessor(config.towers[0].image_size)
    )
