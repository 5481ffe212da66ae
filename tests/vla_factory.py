"""Tiny random VLA checkpoints for tests: real architecture, tokenizer and files, few weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from grape_policy.vla.checkpoint import save_checkpoint
from grape_policy.vla.config import VlaConfig, small_config
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.tokenizer import VlaTokenizer, train_tokenizer

INSTRUCTIONS = ("put the carrot on the plate", "stack the green cube on the yellow cube", "put it in")
STATISTICS = ActionStatistics(
    np.array([-0.03, -0.04, -0.03, -0.08, -0.09, -0.2, 0.0]),
    np.array([0.03, 0.04, 0.04, 0.08, 0.09, 0.2, 1.0]),
    np.array([True] * 6 + [False]),
)


def tiny_tokenizer() -> VlaTokenizer:
    return train_tokenizer(INSTRUCTIONS * 2, merges=64)


def tiny_model(tokenizer: VlaTokenizer, seed: int = 0, stem: str = "patch") -> OpenVla:
    """Return a random model with enough spread in its logits that the tokens depend on the image."""
    torch.manual_seed(seed)
    model = OpenVla(tiny_config(tokenizer, stem)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0 if "lm_head" in name else 2.0)
    return model


def tiny_config(tokenizer: VlaTokenizer, stem: str = "patch") -> VlaConfig:
    return small_config(
        len(tokenizer),
        name="tiny",
        image_size=32,
        tower_width=32,
        tower_blocks=2,
        hidden_size=64,
        layers=2,
        stem=stem,
    )


def tiny_checkpoint(folder: Path, seed: int = 0, reach: float = 1.0) -> str:
    """Write a checkpoint folder and return its version.

    ``reach`` scales its motions: small where nothing puts the arm back, or it would come near the table.
    """
    tokenizer = tiny_tokenizer()
    preprocessor = Preprocessor(image_size=32)
    scale = np.array([reach] * 6 + [1.0])
    statistics = ActionStatistics(scale * STATISTICS.q01, scale * STATISTICS.q99, STATISTICS.mask)
    return save_checkpoint(
        folder, tiny_model(tokenizer, seed), tokenizer, {"grape_sim": statistics}, preprocessor
    )


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
