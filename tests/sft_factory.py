"""Random training frames and a tiny learner, for tests of pre-training and fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from grape_policy.vla.config import TowerConfig
from grape_training.frames import Frames
from grape_training.learner import Parts, new_parts, shipped_config
from grape_training.pretrain import action_statistics
from grape_training.prompts import small_tokenizer


def some_frames(count: int, size: int = 32) -> Frames:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.04, 0.04, (count, 4, 7)).astype(np.float32)
    actions[..., 6] = rng.integers(2, size=(count, 4))
    actions[:, 2:] = np.nan  # two tasks are shown
    objects = rng.uniform([0.2, -0.1, 0], [0.4, 0.1, 0.02], (count, 8, 3)).astype(np.float32)
    return Frames(
        images=rng.integers(255, size=(count, size, size, 3)).astype(np.uint8),
        classes=rng.integers(11, size=(count, 28, 28)).astype(np.uint8),
        objects=objects,
        gripper=rng.uniform(0.1, 0.3, (count, 3)).astype(np.float32),
        held=np.full(count, -1, np.int8),
        actions=actions,
    )


def tiny_parts(frames: Frames) -> Parts:
    config = shipped_config(len(small_tokenizer()))
    tower = TowerConfig(32, 16, 32, 2, 2, 64)
    text = replace(
        config.text, hidden_size=64, intermediate_size=96, num_attention_heads=2, num_hidden_layers=3
    )
    return new_parts(action_statistics(frames), 0, replace(config, towers=(tower, tower), text=text))
